"""Edit distances within pools of hypotheses, and from hypotheses to references, on flat arrays.

`folds.competition.metric` compares one hypothesis with one reference; a pool of 100 needs 5,000 distances per
utterance, between nearly equal hypotheses. So the bit masks of a hypothesis are computed once for all its pairs, and
only the part of a pair between the common prefix and the common suffix is processed. Myers, "A fast bit-vector
algorithm for approximate string matching based on dynamic programming" (J. ACM 46(3), 1999), in blocks of 64 tokens as
in Hyyrö (2003). Compiled functions expect non-negative tokens, and need memory in proportion to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from ensemble.threads import for_ranges
from folds.store.ragged import Ragged

_ONE, _NONE, _ALL = np.uint64(1), np.uint64(0), ~np.uint64(0)
_TOP = np.uint64(1) << np.uint64(63)


def pairwise(hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
    """Edit distances (H, H) int32 between the hypotheses of one utterance; tokens are any integers.

    >>> pairwise([[1, 2, 3], [1, 3], [4]]).tolist()
    [[0, 1, 3], [1, 0, 2], [3, 2, 0]]
    """
    tokens = Ragged.of(hypotheses, np.int64)
    _, numbers = np.unique(tokens.values, return_inverse=True)
    distances = np.zeros((len(hypotheses), len(hypotheses)), np.int32)
    fill_pairs(numbers, tokens.offsets, distances)
    return distances


def to_references(hypotheses: Ragged, rows: np.ndarray, references: Ragged) -> np.ndarray:
    """Edit distance (H,) int32 of each hypothesis to the reference of its utterance; `rows` (H,) are the utterances.

    >>> to_references(Ragged.of([[1, 2], [2]], np.int16), np.array([0, 0]), Ragged.of([[1, 2]], np.int16)).tolist()
    [0, 1]
    """
    out = np.zeros(len(rows), np.int32)

    def fill(first: int, last: int) -> None:
        _to_references(
            hypotheses.values, hypotheses.offsets, rows, references.values, references.offsets, first, last, out
        )

    for_ranges(fill, len(rows))
    return out


@numba.njit(cache=True, nogil=True)
def fill_pairs(tokens, offsets, out):
    """Write distances between all hypotheses of flat `tokens` into a square `out`; capped at 255 if `out` is uint8."""
    count = len(offsets) - 1
    longest = 0
    for i in range(count):
        longest = max(longest, offsets[i + 1] - offsets[i])
    cap = 255 if out.itemsize == 1 else 1 << 30
    masks = np.zeros((_largest(tokens[offsets[0] : offsets[count]]) + 1, longest // 64 + 1), np.uint64)
    up, down = np.empty(masks.shape[1], np.uint64), np.empty(masks.shape[1], np.uint64)
    for i in range(count):
        a = tokens[offsets[i] : offsets[i + 1]]
        for k in range(len(a)):
            masks[a[k], k >> 6] |= _ONE << np.uint64(k & 63)
        for j in range(i + 1, count):
            d = min(_between(a, masks, tokens[offsets[j] : offsets[j + 1]], up, down), cap)
            out[i, j] = d
            out[j, i] = d
        for k in range(len(a)):
            masks[a[k]] = _NONE


@numba.njit(cache=True, nogil=True)
def _largest(tokens):
    largest = 0
    for token in tokens:
        largest = max(largest, token)
    return largest


@numba.njit(cache=True, nogil=True)
def distance(a, b):
    """Edit distance of two arrays of tokens."""
    masks = np.zeros((max(_largest(a), _largest(b)) + 1, len(a) // 64 + 1), np.uint64)
    for k in range(len(a)):
        masks[a[k], k >> 6] |= _ONE << np.uint64(k & 63)
    return _between(a, masks, b, np.empty(masks.shape[1], np.uint64), np.empty(masks.shape[1], np.uint64))


@numba.njit(cache=True, nogil=True)
def _between(a, masks, b, up, down):
    """Edit distance; `masks` (classes, blocks) hold the positions of each token in `a`; `up`, `down` are work space."""
    start, end_a, end_b = 0, len(a), len(b)
    while start < end_a and start < end_b and a[start] == b[start]:
        start += 1
    while end_a > start and end_b > start and a[end_a - 1] == b[end_b - 1]:
        end_a -= 1
        end_b -= 1
    if end_a == start or end_b == start:
        return end_a - start + end_b - start
    # Column `start` of the table is known: the distance of a's first i tokens to the common prefix is |i - start|. So
    # vertical differences are -1 up to it and +1 from there, and the loop starts at the first token that differs.
    blocks = ((end_a - 1) >> 6) + 1
    for w in range(blocks):
        low = min(max(start - 64 * w, 0), 64)
        down[w] = _ALL if low == 64 else (_ONE << np.uint64(low)) - _ONE
        up[w] = ~down[w]
    last = np.uint64(1) << np.uint64((end_a - 1) & 63)
    result = end_a - start
    for j in range(start, end_b):
        carry_up, carry_down = _ONE, _NONE
        for w in range(blocks):
            match = masks[b[j], w]
            vertical = match | down[w]
            match |= carry_down
            diagonal = (((match & up[w]) + up[w]) ^ up[w]) | match
            above = down[w] | ~(diagonal | up[w])
            below = up[w] & diagonal
            if w == blocks - 1:
                if above & last:
                    result += 1
                elif below & last:
                    result -= 1
            next_up = _ONE if above & _TOP else _NONE
            next_down = _ONE if below & _TOP else _NONE
            above = (above << _ONE) | carry_up
            below = (below << _ONE) | carry_down
            up[w] = below | ~(vertical | above)
            down[w] = above & vertical
            carry_up, carry_down = next_up, next_down
    return result


@numba.njit(cache=True, nogil=True)
def _to_references(tokens, offsets, rows, reference_tokens, reference_offsets, first, last, out):
    for h in range(first, last):
        u = rows[h]
        out[h] = distance(
            tokens[offsets[h] : offsets[h + 1]], reference_tokens[reference_offsets[u] : reference_offsets[u + 1]]
        )
