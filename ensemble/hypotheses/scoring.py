"""TODO"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from ensemble.hypotheses.pool import Pool


class Mixture:
    """Every hypothesis's combined log-likelihood (H,) as a function of member weights (members,) that sum to 1.

    "geometric" is the weighted mean of log-likelihoods, "arithmetic" the logarithm of the weighted mean likelihood.
    Either is one product a call: a search calls it thousands of times.
    """

    def __init__(self, pool: Pool, member_of: Sequence[int], mean: str) -> None:
        self.member_of, self.mean = member_of, mean
        self.peaks = pool.ctc.max(axis=1) if mean == "arithmetic" else 0.0
        self.columns = np.exp(pool.ctc - self.peaks[:, None]) if mean == "arithmetic" else pool.ctc

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        mixed = self.columns @ prediction_weights(self.member_of, weights)
        return mixed if self.mean == "geometric" else self.peaks + np.log(np.maximum(mixed, 1e-300))


def prediction_weights(member_of: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """Stream weights (streams,): a member's weight shared equally by its fold models, since OOF cannot rank those."""
    member_of = np.asarray(member_of)
    counts = np.bincount(member_of, minlength=len(weights))
    return np.asarray(weights, np.float64)[member_of] / counts[member_of]


@numba.njit(cache=True, nogil=True)
def best_per_utterance(scores, offsets):
    """Flat number (N,) of each utterance's best-scored hypothesis; on a tie the first in the order of tokens."""
    chosen = np.zeros(len(offsets) - 1, np.int64)
    for u in range(len(chosen)):
        best = offsets[u]
        for h in range(offsets[u] + 1, offsets[u + 1]):
            if scores[h] > scores[best] + 1e-9:
                best = h
        chosen[u] = best
    return chosen


def best_of_column(pool: Pool, settings: dict) -> np.ndarray:
    """Flat numbers (N,) of the best of a pool of one column, with the settings' LM weight and length bonus."""
    scores = pool.ctc[:, 0] + settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths
    return best_per_utterance(scores, pool.offsets)


# A language model takes off some two nats a phoneme, which the bonus gives back: they are searched together.
LM_GRID = {
    "lm_weight": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7),
    "length_bonus": (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
}


ATTENTION_GRID = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


NO_LM = {"lm_weight": 0.0, "length_bonus": 0.0, "speller_weight": 0.0}


MEANS = ("geometric", "arithmetic")


def combined_scores(acoustic: np.ndarray, pool: Pool, settings: dict) -> np.ndarray:
    """Every hypothesis's score (H,): its acoustic one with language model, length bonus and spellers."""
    prior = settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths
    return acoustic + prior + settings["speller_weight"] * pool.spelled


def lm_grid(pool: Pool) -> dict:
    """What is searched besides the members' weights."""
    return LM_GRID | ({"speller_weight": ATTENTION_GRID} if pool.spelled.any() else {})
