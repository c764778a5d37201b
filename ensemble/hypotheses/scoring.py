"""Scores of a pool's hypotheses: members' likelihoods combined, language model, length bonus and attention scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np

from ensemble.hypotheses.pool import Pool

MEANS = ("geometric", "arithmetic")

# A language model lowers a score by about two nats per phoneme, which the length bonus compensates for: so both are
# searched together.
LM_GRID = {
    "lm_weight": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7),
    "length_bonus": (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
}
ATTENTION_GRID = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
NO_LM = {"lm_weight": 0.0, "length_bonus": 0.0}
NO_LM_OR_ATTENTION = NO_LM | {"attention_weight": 0.0}


class Mixture:
    """Every hypothesis's combined log-likelihood (H,) as a function of member weights (members,) that sum to 1.

    "geometric" is the weighted mean of log-likelihoods, "arithmetic" the logarithm of the weighted mean likelihood.
    Either takes one matrix product per call, because a search calls it thousands of times. `member_of` is the member
    index of each column of `pool.ctc`.
    """

    def __init__(self, pool: Pool, member_of: Sequence[int], mean: str) -> None:
        self.member_of, self.mean = member_of, mean
        self.peaks = pool.ctc.max(axis=1)
        self.columns = np.exp(pool.ctc - self.peaks[:, None]) if mean == "arithmetic" else pool.ctc

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        mixed = self.columns @ prediction_weights(self.member_of, weights)
        return mixed if self.mean == "geometric" else self.peaks + np.log(np.maximum(mixed, 1e-300))


def prediction_weights(member_of: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Weights (predictions,): each member's weight, divided equally among its fold models.

    Out-of-fold predictions cannot rank a member's fold models, because each predicts different utterances.
    """
    members = np.asarray(member_of)
    counts = np.bincount(members, minlength=len(weights))
    return np.asarray(weights, np.float64)[members] / counts[members]


def combined_scores(acoustic: np.ndarray, pool: Pool, settings: Mapping[str, Any]) -> np.ndarray:
    """Every hypothesis's score (H,): its acoustic score plus weighted language model, length and attention scores."""
    language_scores = settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths
    return acoustic + language_scores + settings.get("attention_weight", 0.0) * pool.attention


def lm_grid(pool: Pool) -> dict[str, tuple[float, ...]]:
    """The values to search for each weight; attention scores only get one if the pool has them."""
    return LM_GRID | ({"attention_weight": ATTENTION_GRID} if pool.attention.any() else {})


def best_hypotheses(acoustic: np.ndarray, pool: Pool, settings: Mapping[str, Any]) -> np.ndarray:
    """Flat index (N,) of the hypothesis with the highest combined score per utterance."""
    return best_per_utterance(combined_scores(acoustic, pool, settings), pool.offsets)


@numba.njit(cache=True, nogil=True)
def best_per_utterance(scores, offsets):
    """Flat index (N,) of the hypothesis with the highest score per utterance; on a tie the first in order of tokens."""
    chosen = np.zeros(len(offsets) - 1, np.int64)
    for u in range(len(chosen)):
        best = offsets[u]
        for h in range(offsets[u] + 1, offsets[u + 1]):
            if scores[h] > scores[best] + 1e-9:
                best = h
        chosen[u] = best
    return chosen
