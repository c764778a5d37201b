"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ensemble.beam.search import beam_search
from ensemble.decoding.batched import BATCH
from ensemble.lm.ngram import PhoneLM
from folds.store.log_probs import LogProbs

# Fusion of the search that proposes strings with a language model: near the best of single members out of fold on real
# speech. Rescoring the plain N-best alone gets a third of what fusion gets, for the strings it wants are not there.
PROPOSAL_FUSION = {"lm_weight": 0.45, "length_bonus": 1.0}


@dataclass(frozen=True)
class NBest:
    """One stream's N-best: per utterance the strings (class numbers as bytes), best first.

    `scores` are what ranks them, `ctc` their log-likelihoods under the stream (the same without a language model), and
    `confidences` those of the best string's tokens, for ROVER.
    """

    strings: list[tuple[bytes, ...]]
    scores: list[np.ndarray]
    ctc: list[np.ndarray]
    confidences: list[np.ndarray]

    def take(self, rows: Sequence[int]) -> NBest:
        columns = (self.strings, self.scores, self.ctc, self.confidences)
        return NBest(*([column[row] for row in rows] for column in columns))


def nbest_of(
    log_probs: LogProbs,
    depth: int,
    what: str = "",
    languages: Sequence[PhoneLM] | None = None,
    parts: np.ndarray | None = None,
) -> NBest:
    """The `depth`-best strings of every utterance under one stream; fused with `languages[parts[u]]` where given."""
    parts = np.zeros(len(log_probs), np.int64) if languages is None else np.asarray(parts)
    found: dict[int, tuple[tuple[bytes, ...], np.ndarray, np.ndarray, np.ndarray]] = {}
    with tqdm(total=len(log_probs), desc=f"beam {what}", unit="utt", leave=False) as bar:
        for part in np.unique(parts):
            fusion = {} if languages is None else {"lm": languages[part], **PROPOSAL_FUSION}
            mine = np.flatnonzero(parts == part)
            mine = mine[np.argsort(log_probs.lengths[mine], kind="stable")]
            for start in range(0, len(mine), BATCH):
                rows = mine[start : start + BATCH].tolist()
                decoded = beam_search(*log_probs.padded(rows), beam=depth, nbest=depth, **fusion)
                for row, hypotheses in zip(rows, decoded, strict=True):
                    found[row] = (
                        tuple(bytes(h.tokens) for h in hypotheses),
                        np.array([h.score for h in hypotheses]),
                        np.array([h.ctc for h in hypotheses]),
                        np.array(hypotheses[0].confidences),
                    )
                bar.update(len(rows))
    columns = zip(*(found[row] for row in range(len(log_probs))), strict=True)
    return NBest(*(list(column) for column in columns))


def union(lists: Sequence[NBest], size: int) -> list[list[bytes]]:
    """Per utterance the `size` strings with the largest mean posterior over the lists, in the order of their tokens.

    A string's posterior in a list is its share of that list's mass, so what one member is sure of stays in.
    """
    pools = []
    for row in range(len(lists[0].strings)):
        mass: dict[bytes, float] = {}
        for each in lists:
            shares = np.exp(each.scores[row] - each.scores[row].max())
            for string, share in zip(each.strings[row], (shares / shares.sum()).tolist(), strict=True):
                mass[string] = mass.get(string, 0.0) + share
        best = sorted(mass, key=lambda s: (-mass[s], s))[:size]
        pools.append(sorted(best))
    return pools
