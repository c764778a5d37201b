"""Edit distances for pools of hypotheses: hundreds of near-equal strings an utterance, held in flat arrays.

`folds.metric` measures one hypothesis against one reference; a pool of 100 needs 5,000 distances an utterance, between
strings that mostly agree. So common ends are stripped first and what is left goes through Myers' bit-vector algorithm
(J. ACM 46(3), 1999, in Hyyrö's form), or plain dynamic programming beyond 64 tokens. Tokens are small integers from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np


def flatten(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as one int16 array and int64 offsets (len + 1,)."""
    offsets = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(s) for s in sequences], out=offsets[1:])
    tokens = np.fromiter((t for s in sequences for t in s), np.int16, int(offsets[-1]))
    return tokens, offsets


def pairwise(hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
    """Edit distances (H, H) int32 between the hypotheses of one utterance.

    >>> pairwise([[1, 2, 3], [1, 3], [4]]).tolist()
    [[0, 1, 3], [1, 0, 2], [3, 2, 0]]
    """
    tokens, offsets = flatten(hypotheses)
    out = np.zeros((len(hypotheses), len(hypotheses)), np.int32)
    _fill(tokens, offsets, 0, len(hypotheses), out)
    return out


@numba.njit(cache=True, nogil=True)
def distance(a, b):
    """Edit distance of two int16 arrays of tokens 0..127."""
    start, end_a, end_b = 0, len(a), len(b)
    while start < end_a and start < end_b and a[start] == b[start]:
        start += 1
    while end_a > start and end_b > start and a[end_a - 1] == b[end_b - 1]:
        end_a -= 1
        end_b -= 1
    m, n = end_a - start, end_b - start
    if m == 0 or n == 0:
        return m + n
    if m == 1 and n == 1:
        return 1
    if m > n:
        a, b, end_a, end_b, m, n = b, a, end_b, end_a, n, m
    if m > 64:
        return _table(a[start:end_a], b[start:end_b])
    masks = np.zeros(128, np.uint64)
    one = np.uint64(1)
    for i in range(m):
        masks[a[start + i]] |= one << np.uint64(i)
    top = one << np.uint64(m - 1)
    up, down, result = ~np.uint64(0), np.uint64(0), m
    for j in range(start, end_b):
        match = masks[b[j]]
        diagonal = (((match & up) + up) ^ up) | match | down
        above = down | ~(diagonal | up)
        below = up & diagonal
        if above & top:
            result += 1
        if below & top:
            result -= 1
        above = (above << one) | one
        up = (below << one) | ~(diagonal | above)
        down = above & diagonal
    return result


@numba.njit(cache=True, nogil=True)
def _table(a, b):
    row = np.arange(len(b) + 1)
    for i in range(len(a)):
        corner = row[0]
        row[0] = i + 1
        for j in range(len(b)):
            best = corner + (a[i] != b[j])
            corner = row[j + 1]
            row[j + 1] = min(best, corner + 1, row[j] + 1)
    return row[len(b)]


@numba.njit(cache=True, nogil=True)
def _fill(tokens, offsets, first, count, out):
    for i in range(count):
        a = tokens[offsets[first + i] : offsets[first + i + 1]]
        for j in range(i + 1, count):
            d = distance(a, tokens[offsets[first + j] : offsets[first + j + 1]])
            out[i, j] = d
            out[j, i] = d


@numba.njit(cache=True, nogil=True, parallel=True)
def to_references(tokens, offsets, rows, reference_tokens, reference_offsets):
    """Edit distance (H,) int32 of every hypothesis to the reference of its utterance, `rows` (H,) giving which."""
    out = np.zeros(len(rows), np.int32)
    for h in numba.prange(len(rows)):
        u = rows[h]
        out[h] = distance(
            tokens[offsets[h] : offsets[h + 1]], reference_tokens[reference_offsets[u] : reference_offsets[u + 1]]
        )
    return out
