"""Minimum Bayes risk over pools: the hypothesis with the least expected edit distance, for many utterances at once.

`ensemble.mbr.mbr` does the same for one utterance.
"""

from __future__ import annotations

import numba
import numpy as np

from ensemble.hypotheses.edit_distance import fill_pairs
from ensemble.hypotheses.pool import Pool
from ensemble.threads import for_ranges
from folds.store.ragged import Ragged, offsets_of


def compute_pairwise_distances(pool: Pool) -> Ragged:
    """Edit distances between all hypotheses of each utterance: a flattened (H, H) matrix, uint8 and at most 255."""
    offsets = offsets_of(np.diff(pool.offsets) ** 2)
    out = np.zeros(offsets[-1], np.uint8)
    for_ranges(
        lambda first, last: _pairs(pool.tokens.values, pool.tokens.offsets, pool.offsets, offsets, first, last, out),
        len(pool),
        "edit distances within pools",
    )
    return Ragged(out, offsets)


@numba.njit(cache=True, nogil=True)
def _pairs(tokens, token_offsets, offsets, pair_offsets, first_utterance, last_utterance, out):
    for u in range(first_utterance, last_utterance):
        first, last = offsets[u], offsets[u + 1]
        square = out[pair_offsets[u] : pair_offsets[u + 1]].reshape((last - first, last - first))
        fill_pairs(tokens, token_offsets[first : last + 1], square)


def least_expected_distance(scores: np.ndarray, offsets: np.ndarray, pairwise: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Flat index (N,) of each utterance's hypothesis with the least expected distance, and that distance (N,).

    `scores` (H,) are log-posteriors up to a constant per utterance, `pairwise` the distances of
    `compute_pairwise_distances`. Ties go to the higher score, then to the order of tokens.
    """
    # NaN propagates to the maximum.
    if len(offsets) > 1 and not np.isfinite(np.maximum.reduceat(scores, offsets[:-1])).all():
        raise ValueError("expected distances: scores are NaN or infinite")
    chosen, risks = np.zeros(len(offsets) - 1, np.int64), np.zeros(len(offsets) - 1)
    for_ranges(
        lambda first, last: _least_expected_distance(
            scores, offsets, pairwise.values, pairwise.offsets, first, last, chosen, risks
        ),
        len(chosen),
    )
    return chosen, risks


@numba.njit(cache=True, nogil=True)
def _least_expected_distance(scores, offsets, pairs, pair_offsets, first_utterance, last_utterance, chosen, risks):
    for u in range(first_utterance, last_utterance):
        first, count = offsets[u], offsets[u + 1] - offsets[u]
        posterior = np.exp(scores[first : first + count] - scores[first : first + count].max())
        posterior /= posterior.sum()
        # Both loops start with the most probable hypothesis, so that the bound is tight early and most candidates
        # exceed it after a few terms.
        order = np.argsort(-posterior)
        best, least = -1, np.inf
        for i in order:
            risk = 0.0
            for j in order:
                risk += posterior[j] * pairs[pair_offsets[u] + i * count + j]
                # It exceeds the least, or the remaining mass is too small to change an expectation.
                if risk > least + 1e-9 or posterior[j] < 1e-9:
                    break
            equal = abs(risk - least) <= 1e-9
            if (equal and (posterior[i], -i) > (posterior[best], -best)) or risk < least - 1e-9:
                best, least = i, risk
        chosen[u] = first + best
        risks[u] = least
