"""Exact CTC log-likelihoods of pools of hypotheses under one model, each computed once."""

from __future__ import annotations

import numpy as np

from ensemble.threads import map_threads
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged
from models.ctc import packed_log_likelihood
from registry.console import track

# A hypothesis that does not fit into a model's frames has likelihood zero under it. One model must not rule out what
# the others agree on, so log-likelihoods are floored this far below the best of the pool.
LIKELIHOOD_FLOOR = 50.0


def compute_likelihoods(
    log_probs: LogProbs, offsets: np.ndarray, tokens: Ragged, known: np.ndarray, description: str = ""
) -> np.ndarray:
    """Exact log P(hypothesis | utterance) of every hypothesis under one model, (H,) float64.

    Utterance u has the hypotheses `offsets[u]:offsets[u + 1]` of `tokens`. `known` (H,) holds previously computed
    values, or NaN for those to compute.
    """
    scores = known.copy()

    def score_utterance(row: int) -> None:
        unknown = offsets[row] + np.flatnonzero(np.isnan(scores[offsets[row] : offsets[row + 1]]))
        if len(unknown):
            own = tokens.take(unknown)
            scores[unknown] = packed_log_likelihood(log_probs[row], own.values, own.offsets)

    utterances = range(len(offsets) - 1)
    for _ in track(map_threads(score_utterance, utterances), f"scoring, {description}", len(utterances)):
        pass
    return scores


def floor_likelihoods(ctc: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Log-likelihoods (H, predictions) floored `LIKELIHOOD_FLOOR` below the best of their pool.

    A model under which no hypothesis of a pool is possible gives all of them the same value, below those of the other
    models, so that it has no influence on geometric or arithmetic means.
    """
    best = np.maximum.reduceat(ctc, offsets[:-1], axis=0)
    found = np.isfinite(best)
    lowest = np.where(found, best, np.inf).min(axis=1, keepdims=True)
    below = np.where(np.isfinite(lowest), lowest - LIKELIHOOD_FLOOR, 0.0)
    floors = np.where(found, best - LIKELIHOOD_FLOOR, below)
    return np.maximum(ctc, np.repeat(floors, np.diff(offsets), axis=0))
