"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from tqdm import tqdm

from folds.store.log_probs import LogProbs
from models.ctc import log_likelihood

# A hypothesis that does not fit a member's frames has likelihood zero there. One member must not veto what the others
# agree on, so no member may disbelieve a string more than this below the best of the pool.
LIKELIHOOD_FLOOR = 50.0


def likelihoods(log_probs: LogProbs, pools: Sequence[Sequence[bytes]], known: np.ndarray, what: str = "") -> np.ndarray:
    """Exact log P(string | utterance) of every string of every pool under one stream, flat (H,) float64.

    `known` (H,) holds what has been worked out before and NaN elsewhere; only the latter is computed.
    """
    offsets = np.concatenate([[0], np.cumsum([len(pool) for pool in pools])]).astype(np.int64)
    out = known.copy()

    def one(row: int) -> None:
        span = out[offsets[row] : offsets[row + 1]]
        unknown = np.flatnonzero(np.isnan(span))
        if len(unknown):
            span[unknown] = log_likelihood(log_probs[row], [list(pools[row][i]) for i in unknown])

    with ThreadPoolExecutor(numba.get_num_threads()) as threads:
        for _ in tqdm(threads.map(one, range(len(pools))), f"score {what}", len(pools), leave=False, unit="utt"):
            pass
    return out


def look_up(pools: Sequence[Sequence[bytes]], other: Sequence[Sequence[bytes]], values: np.ndarray) -> np.ndarray:
    """Values (H,) for the strings of `pools` from those of `other` pools of the same utterances; else NaN."""
    out, start = [], 0
    for wanted, there in zip(pools, other, strict=True):
        table = dict(zip(there, values[start : start + len(there)].tolist(), strict=True))
        out += [table.get(string, np.nan) for string in wanted]
        start += len(there)
    return np.array(out)


def floor_likelihoods(ctc: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Log-likelihoods (H, streams) floored `DISBELIEF` below the best of their pool.

    They are 0 where a stream finds no string of the pool possible, so that it has no say.
    """
    best = np.repeat(np.maximum.reduceat(ctc, offsets[:-1], axis=0), np.diff(offsets), axis=0)
    return np.where(np.isfinite(best), np.maximum(ctc, best - LIKELIHOOD_FLOOR), 0.0)
