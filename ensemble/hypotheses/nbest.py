"""N-best lists: what one model proposes for each utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.beam.search import Hypothesis, beam_search
from ensemble.decoding.batched import decoded_batches
from ensemble.decoding.decoders import DecoderSettings
from ensemble.lm.ngram import PhoneLM
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of

# Shallow fusion of the search that proposes hypotheses: near the best settings of single members out of fold on real
# speech. Rescoring the N-best of a search without a language model gets a third of what fusion gets, because the
# hypotheses that the language model prefers are not in it.
FUSION: DecoderSettings = {"lm_weight": 0.45, "length_bonus": 1.0}


@dataclass(frozen=True)
class NBest:
    """The N-best lists of one model: per utterance its hypotheses (class numbers as bytes), best first.

    `scores` are what ranks them, `ctc` their CTC log-likelihoods (the same without a language model), and
    `confidences` those of the tokens of the best hypothesis, for ROVER.
    """

    hypotheses: list[tuple[bytes, ...]]
    scores: list[np.ndarray]
    ctc: list[np.ndarray]
    confidences: list[np.ndarray]

    def take(self, rows: Sequence[int] | np.ndarray) -> NBest:
        """The lists of some utterances."""
        return NBest(
            [self.hypotheses[row] for row in rows],
            [self.scores[row] for row in rows],
            [self.ctc[row] for row in rows],
            [self.confidences[row] for row in rows],
        )

    @property
    def best(self) -> list[list[int]]:
        """The best hypothesis of each utterance."""
        return [list(hypotheses[0]) for hypotheses in self.hypotheses]


def nbest_of(
    log_probs: LogProbs,
    depth: int,
    description: str = "",
    languages: Sequence[PhoneLM] | None = None,
    parts: np.ndarray | None = None,
) -> NBest:
    """The `depth`-best hypotheses of every utterance; with fusion of `languages[parts[u]]` where those are given."""
    settings: DecoderSettings = {"beam": depth, "nbest": depth}
    if languages is None:
        parts = None
    else:
        settings |= FUSION
    decoded: dict[int, list[Hypothesis]] = {}
    description = f"beam search, {description}"
    for batch in decoded_batches(
        log_probs, beam_search, parts=parts, languages=languages, description=description, **settings
    ):
        decoded.update(zip(batch.rows, batch.hypotheses, strict=True))
    lists = [decoded[row] for row in range(len(log_probs))]
    return NBest(
        [tuple(bytes(hypothesis.tokens) for hypothesis in nbest) for nbest in lists],
        [np.array([hypothesis.score for hypothesis in nbest]) for nbest in lists],
        [np.array([hypothesis.ctc for hypothesis in nbest]) for nbest in lists],
        [np.array(nbest[0].confidences) for nbest in lists],
    )


def nbest_of_matrices(matrices: Sequence[np.ndarray], depth: int, description: str) -> NBest:
    """The N-best lists of CTC matrices (T, C), one per utterance, that are not a model's predictions."""
    offsets = offsets_of(len(matrix) for matrix in matrices)
    ids = tuple(map(str, range(len(matrices))))
    return nbest_of(LogProbs(np.concatenate(matrices), offsets, ids, "", 0, 1), depth, description)


def union(lists: Sequence[NBest], size: int) -> list[list[bytes]]:
    """Per utterance the `size` hypotheses with the largest mean posterior over the lists, in the order of their tokens.

    A hypothesis's posterior in a list is its share of that list's mass, so one of which a single model is certain
    stays in the union.
    """
    pools = []
    for row in range(len(lists[0].hypotheses)):
        mass: dict[bytes, float] = {}
        for nbest in lists:
            shares = np.exp(nbest.scores[row] - nbest.scores[row].max())
            for hypothesis, share in zip(nbest.hypotheses[row], (shares / shares.sum()).tolist(), strict=True):
                mass[hypothesis] = mass.get(hypothesis, 0.0) + share
        best = sorted(mass, key=lambda hypothesis: (-mass[hypothesis], hypothesis))[:size]
        pools.append(sorted(best))
    return pools
