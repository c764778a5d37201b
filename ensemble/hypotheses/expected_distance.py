"""TODO"""

from __future__ import annotations

import numba
import numpy as np

from ensemble.hypotheses.edit_distance import fill_pairs
from ensemble.hypotheses.pool import Pool


def pairwise_distances(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Edit distances between all hypotheses of an utterance, flat uint8 (capped at 255), and the offsets (N + 1,)."""
    sizes = np.diff(pool.offsets)
    offsets = np.concatenate([[0], np.cumsum(sizes**2)]).astype(np.int64)
    return _pairs(pool.tokens, pool.token_offsets, pool.offsets, offsets), offsets


@numba.njit(cache=True, nogil=True, parallel=True)
def _pairs(tokens, token_offsets, offsets, pair_offsets):
    out = np.zeros(pair_offsets[-1], np.uint8)
    for u in numba.prange(len(offsets) - 1):
        first, last = offsets[u], offsets[u + 1]
        square = out[pair_offsets[u] : pair_offsets[u + 1]].reshape((last - first, last - first))
        fill_pairs(tokens, token_offsets[first : last + 1], square)
    return out


@numba.njit(cache=True, nogil=True, parallel=True)
def least_expected_distance(scores, offsets, pairs, pair_offsets):
    """Flat number (N,) of each utterance's hypothesis of least expected distance, and that expectation (N,).

    `scores` (H,) are log-posteriors up to a constant. Ties go to the higher score, then to the order of tokens.
    """
    chosen = np.zeros(len(offsets) - 1, np.int64)
    risks = np.zeros(len(offsets) - 1)
    for u in numba.prange(len(chosen)):
        first, count = offsets[u], offsets[u + 1] - offsets[u]
        posterior = np.exp(scores[first : first + count] - scores[first : first + count].max())
        posterior /= posterior.sum()
        # The likeliest first, on both sides: the bound is tight at once, and most candidates pass it after a few terms.
        order = np.argsort(-posterior)
        best, least = -1, np.inf
        for i in order:
            risk = 0.0
            for j in order:
                risk += posterior[j] * pairs[pair_offsets[u] + i * count + j]
                # What is left of the mass is too little to change an expectation.
                if risk > least + 1e-9 or posterior[j] < 1e-9:
                    break
            equal = abs(risk - least) <= 1e-9
            if equal and (posterior[i], -i) > (posterior[best], -best) or risk < least - 1e-9:
                best, least = i, risk
        chosen[u] = first + best
        risks[u] = least
    return chosen, risks
