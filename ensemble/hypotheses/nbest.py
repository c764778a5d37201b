"""N-best lists: the hypotheses that one model proposes for each utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.beam.search import Hypothesis, beam_search
from ensemble.decoding.batched import decoded_batches
from ensemble.decoding.decoders import DecoderSettings
from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import PackedHypothesis
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of

# The language model's part in the search that proposes hypotheses (shallow fusion): near the best settings of single
# members out of fold on real speech. Rescoring the N-best of a search without a language model gains a third of what
# fusion gains, because the hypotheses that the language model prefers are not in it.
FUSION: DecoderSettings = {"lm_weight": 0.45, "length_bonus": 1.0}


@dataclass(frozen=True)
class NBest:
    """The N-best lists of one model, one entry per utterance."""

    hypotheses: list[tuple[PackedHypothesis, ...]]
    """The hypotheses, best first."""
    scores: list[np.ndarray]
    """Their scores, by which they are ranked."""
    ctc: list[np.ndarray]
    """Their CTC log-likelihoods, which are the scores of a search without a language model."""
    confidences: list[np.ndarray]
    """Confidences of the best hypothesis's tokens, for ROVER."""

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
    nbest_size: int,
    description: str = "",
    language_models: Sequence[PhoneLM] | None = None,
    outer_folds: np.ndarray | None = None,
) -> NBest:
    """The best `nbest_size` hypotheses of every utterance.

    Utterance `u` is searched with `language_models[outer_folds[u]]`, or without a language model.
    """
    settings: DecoderSettings = {"beam": nbest_size, "nbest": nbest_size}
    if language_models is None:
        outer_folds = None
    else:
        settings |= FUSION
    decoded: dict[int, list[Hypothesis]] = {}
    description = f"beam search, {description}"
    for batch in decoded_batches(
        log_probs,
        beam_search,
        outer_folds=outer_folds,
        language_models=language_models,
        description=description,
        **settings,
    ):
        decoded.update(zip(batch.rows, batch.hypotheses, strict=True))
    lists = [decoded[row] for row in range(len(log_probs))]
    return NBest(
        [tuple(bytes(hypothesis.tokens) for hypothesis in nbest) for nbest in lists],
        [np.array([hypothesis.score for hypothesis in nbest]) for nbest in lists],
        [np.array([hypothesis.ctc for hypothesis in nbest]) for nbest in lists],
        [np.array(nbest[0].confidences) for nbest in lists],
    )


def nbest_of_matrices(matrices: Sequence[np.ndarray], nbest_size: int, description: str) -> NBest:
    """The N-best lists of CTC matrices (T, C), one per utterance, that are not a model's predictions."""
    offsets = offsets_of(len(matrix) for matrix in matrices)
    ids = tuple(map(str, range(len(matrices))))
    log_probs = LogProbs(np.concatenate(matrices), offsets, ids, alphabet_hash="", blank=0, stride=1)
    return nbest_of(log_probs, nbest_size, description)


def union(lists: Sequence[NBest], pool_size: int) -> list[list[PackedHypothesis]]:
    """The `pool_size` hypotheses of each utterance with the largest mean posterior over the lists, sorted by tokens.

    Posteriors are normalised within each list, so a hypothesis of which a single model is certain stays in the union.
    """
    pools = []
    for row in range(len(lists[0].hypotheses)):
        mass: dict[PackedHypothesis, float] = {}
        for nbest in lists:
            likelihoods = np.exp(nbest.scores[row] - nbest.scores[row].max())
            posteriors = (likelihoods / likelihoods.sum()).tolist()
            for hypothesis, posterior in zip(nbest.hypotheses[row], posteriors, strict=True):
                mass[hypothesis] = mass.get(hypothesis, 0.0) + posterior
        best = sorted(mass, key=lambda hypothesis: (-mass[hypothesis], hypothesis))[:pool_size]
        pools.append(sorted(best))
    return pools
