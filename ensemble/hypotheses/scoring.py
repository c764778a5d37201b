"""Scores of a pool's hypotheses: combined likelihoods, language model, length bonus, label prior, attention scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np

from ensemble.hypotheses.pool import Pool
from folds.store.ragged import offsets_of

MEANS = ("geometric", "arithmetic")
# Far above the smallest float64, so that a sum above it has lost nothing.
_UNDERFLOW = 1e-250

# A language model lowers a score by about two nats per phoneme, which the length bonus compensates, so both are
# searched jointly.
LM_GRID = {
    "lm_weight": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2),
    "length_bonus": (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5),
}
ATTENTION_GRID = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
PRIOR_GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
NO_LM = {"lm_weight": 0.0, "length_bonus": 0.0}
NO_LM_OR_ATTENTION = NO_LM | {"attention_weight": 0.0}


class Mixture:
    """Every hypothesis's combined log-likelihood (H,) as a function of member weights (members,) that sum to 1.

    "geometric" is the weighted mean of log-likelihoods, "arithmetic" the logarithm of the weighted mean likelihood.
    Both need only one matrix product per call, because a search calls this thousands of times. `member_of` is the
    member index of each column of `pool.ctc`.
    """

    def __init__(self, pool: Pool, member_of: Sequence[int], mean: str) -> None:
        self.member_of, self.mean, self.ctc = member_of, mean, pool.ctc
        self.peaks = pool.ctc.max(axis=1)
        self.columns = np.exp(pool.ctc - self.peaks[:, None]) if mean == "arithmetic" else pool.ctc

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        of_predictions = prediction_weights(self.member_of, weights)
        mixed = self.columns @ of_predictions
        if self.mean == "geometric":
            return mixed
        # If the models with weight are hundreds of nats below another one, the product underflows.
        lost = np.flatnonzero(mixed < _UNDERFLOW)
        scores = self.peaks + np.log(np.maximum(mixed, _UNDERFLOW))
        if len(lost):
            used = np.flatnonzero(of_predictions)
            scores[lost] = np.logaddexp.reduce(self.ctc[np.ix_(lost, used)] + np.log(of_predictions[used]), axis=1)
        return scores


def prediction_weights(member_of: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Weights (predictions,): each member's weight, divided equally among its fold models.

    Out-of-fold predictions cannot rank a member's fold models, because each predicts different utterances.
    """
    members = np.asarray(member_of)
    counts = np.bincount(members, minlength=len(weights))
    return np.asarray(weights, np.float64)[members] / counts[members]


def combined_scores(acoustic: np.ndarray, pool: Pool, settings: Mapping[str, Any]) -> np.ndarray:
    """Every hypothesis's score (H,): its acoustic score plus weighted language model, length and other scores."""
    language_scores = settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths
    scores = acoustic + language_scores + settings.get("attention_weight", 0.0) * pool.attention
    return scores + settings.get("prior_weight", 0.0) * pool.prior


def lm_grid(pool: Pool) -> dict[str, tuple[float, ...]]:
    """The values to search for each weight; attention scores only get one if the pool has them."""
    grid = LM_GRID if pool.lm_grid is None else dict(pool.lm_grid)
    return grid | ({"attention_weight": ATTENTION_GRID} if pool.attention.any() else {})


def prior_grid(pool: Pool) -> dict[str, tuple[float, ...]]:
    """The values to search for the weight of the label prior, if it is known."""
    return {"prior_weight": PRIOR_GRID} if pool.prior.any() else {}


def best_hypotheses(acoustic: np.ndarray, pool: Pool, settings: Mapping[str, Any]) -> np.ndarray:
    """Flat index (N,) of the hypothesis with the highest combined score per utterance."""
    return best_per_utterance(combined_scores(acoustic, pool, settings), pool.offsets)


def normalized_posteriors(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each utterance's posteriors (H,) from `scores`, log-posteriors up to a constant; 0 if all of them are -inf."""
    counts = np.diff(offsets)
    peaks = np.maximum.reduceat(scores, offsets[:-1])
    likelihoods = np.exp(scores - np.repeat(np.where(np.isfinite(peaks), peaks, 0.0), counts))
    totals = np.add.reduceat(likelihoods, offsets[:-1])
    return likelihoods / np.repeat(np.where(totals > 0, totals, 1.0), counts)


def keep_best(scores: np.ndarray, offsets: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the `size` hypotheses with the highest scores per utterance, in their order, and new offsets."""
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    ranked = np.lexsort((-scores, rows))  # ties go to the first by tokens
    rank = np.arange(len(scores)) - np.repeat(offsets[:-1], counts)
    return np.sort(ranked[rank < size]), offsets_of(np.minimum(counts, size))


@numba.njit(cache=True, nogil=True)
def best_per_utterance(scores, offsets):
    """Flat index (N,) of the hypothesis with the highest score per utterance; ties go to the first by tokens."""
    chosen = np.zeros(len(offsets) - 1, np.int64)
    for u in range(len(chosen)):
        best = offsets[u]
        for h in range(offsets[u] + 1, offsets[u + 1]):
            if scores[h] > scores[best] + 1e-9:
                best = h
        chosen[u] = best
    return chosen
