"""Exact CTC log-likelihoods of pools of hypotheses under one model, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from ensemble.members.predictions import PackedHypothesis
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of
from models.ctc import log_likelihood
from registry.console import track

# A hypothesis that does not fit into a model's frames has likelihood zero there. One model must not exclude what the
# others agree on, so log-likelihoods are floored this far below the best of the pool.
LIKELIHOOD_FLOOR = 50.0


def compute_likelihoods(
    log_probs: LogProbs, pools: Sequence[Sequence[PackedHypothesis]], known: np.ndarray, description: str = ""
) -> np.ndarray:
    """Exact log P(hypothesis | utterance) of every hypothesis of every pool under one model, (H,) float64.

    `known` (H,) holds values computed before and NaN elsewhere; only the latter are computed.
    """
    offsets = offsets_of(len(pool) for pool in pools)
    scores = known.copy()

    def score_utterance(row: int) -> None:
        span = scores[offsets[row] : offsets[row + 1]]
        unknown = np.flatnonzero(np.isnan(span))
        if len(unknown):
            span[unknown] = log_likelihood(log_probs[row], [list(pools[row][index]) for index in unknown.tolist()])

    with ThreadPoolExecutor(numba.get_num_threads()) as threads:
        for _ in track(threads.map(score_utterance, range(len(pools))), f"scoring, {description}", len(pools)):
            pass
    return scores


def look_up(
    pools: Sequence[Sequence[PackedHypothesis]], others: Sequence[Sequence[PackedHypothesis]], values: np.ndarray
) -> np.ndarray:
    """Values (H,) of the hypotheses of `pools`, NaN for those that are not in `others`.

    `others` are pools of the same utterances, and `values` holds one value per hypothesis of theirs.
    """
    known: list[float] = []
    start = 0
    for pool, other in zip(pools, others, strict=True):
        table = dict(zip(other, values[start : start + len(other)].tolist(), strict=True))
        known += [table.get(hypothesis, np.nan) for hypothesis in pool]
        start += len(other)
    return np.array(known)


def floor_likelihoods(ctc: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Log-likelihoods (H, predictions) floored `LIKELIHOOD_FLOOR` below the best of their pool.

    They are 0 for a model that finds no hypothesis of the pool possible, so that it has no influence on that pool.
    """
    best = np.repeat(np.maximum.reduceat(ctc, offsets[:-1], axis=0), np.diff(offsets), axis=0)
    return np.where(np.isfinite(best), np.maximum(ctc, best - LIKELIHOOD_FLOOR), 0.0)
