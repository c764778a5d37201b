"""Consensus decoding: the sequence with the least expected edit distance, which need not be in the pool.

Xu, Povey, Mangu & Zhu, "Minimum Bayes risk decoding and system combination based on a recursion for edit distance"
(Computer Speech and Language 25(4), 2011), with one alignment per hypothesis instead of their sum over lattice paths:
the hypotheses are aligned to the current sequence, which gives a confusion network with a slot for each of its tokens
and for each gap between them. The symbols with the most posterior mass in every slot form the next sequence. A step is
kept only if it lowers the exact expected distance, so the result is never worse than the start.
"""

from __future__ import annotations

import numba
import numpy as np

from ensemble.hypotheses.edit_distance import distance
from ensemble.threads import for_ranges
from folds.store.ragged import Ragged, offsets_of

_STEPS = 10
# Hypotheses with a lower posterior are left out: 200 of them would hold 0.2 % of the mass.
_LEAST_POSTERIOR = 1e-5


def consensus(tokens: Ragged, offsets: np.ndarray, posterior: np.ndarray, start: np.ndarray, classes: int) -> Ragged:
    """The consensus sequence of each utterance, int16.

    `tokens` are the H hypotheses of a pool, those of utterance u at `offsets[u]:offsets[u + 1]`; `posterior` (H,) are
    their posteriors, and `start` (N,) the flat indices of the initial sequences, such as the hypotheses of least
    expected distance. The null wins a tie with a token, so an insertion needs more than half of the mass.

    >>> pool = Ragged.of([[1, 2, 3, 4], [1, 5, 3], [6, 2, 3]], np.int16)
    >>> consensus(pool, np.array([0, 3]), np.full(3, 1 / 3), np.array([0]), classes=7)[0].tolist()
    [1, 2, 3]
    """
    count, longest = len(offsets) - 1, 2 * int(tokens.lengths.max(initial=0)) + 1
    sequences, lengths = np.zeros((count, longest), np.int16), np.zeros(count, np.int64)
    pool = (tokens.values, tokens.offsets, offsets, posterior, start, classes)
    for_ranges(lambda first, last: _consensus(*pool, first, last, sequences, lengths), count)
    return Ragged(sequences[np.arange(longest) < lengths[:, None]], offsets_of(lengths))


@numba.njit(cache=True, nogil=True)
def _consensus(tokens, token_offsets, offsets, posterior, start, classes, begin, end, sequences, lengths):
    for u in range(begin, end):
        first = tokens[token_offsets[start[u]] : token_offsets[start[u] + 1]]
        used = offsets[u] + np.flatnonzero(posterior[offsets[u] : offsets[u + 1]] >= _LEAST_POSTERIOR)
        sequence = _improve(first, tokens, token_offsets, posterior, used, classes, sequences.shape[1])
        lengths[u] = len(sequence)
        sequences[u, : len(sequence)] = sequence


@numba.njit(cache=True, nogil=True)
def _improve(first, tokens, token_offsets, posterior, used, classes, longest):
    """The consensus, in steps from the sequence `first`; it has at most `longest` tokens."""
    current = first.copy()
    risk = _risk(current, tokens, token_offsets, posterior, used)
    for _ in range(_STEPS):
        following = _winners(current, _count_slots(current, tokens, token_offsets, posterior, used, classes))
        following_risk = _risk(following, tokens, token_offsets, posterior, used)
        if following_risk >= risk - 1e-9 or len(following) > longest:
            break
        current, risk = following, following_risk
    return current


@numba.njit(cache=True, nogil=True)
def _risk(sequence, tokens, token_offsets, posterior, used):
    risk = 0.0
    for h in used:
        risk += posterior[h] * distance(sequence, tokens[token_offsets[h] : token_offsets[h + 1]])
    return risk


@numba.njit(cache=True, nogil=True)
def _winners(sequence, slots):
    """The symbol with the most mass in each slot, without nulls; a tie keeps the current symbol."""
    out = np.zeros(len(slots), np.int16)
    count = 0
    for s in range(len(slots)):
        current = sequence[s // 2] if s % 2 else 0
        best = np.argmax(slots[s])
        winner = best if slots[s, best] > slots[s, current] + 1e-9 else current
        if winner > 0:
            out[count] = winner
            count += 1
    return out[:count]


@numba.njit(cache=True, nogil=True)
def _count_slots(sequence, tokens, token_offsets, posterior, used, classes):
    """Posterior mass (2 * length + 1, classes) of each symbol; class 0 is the null.

    Slot 2k + 1 holds the symbols aligned with token k, slot 2k those inserted before it. If several tokens are inserted
    in one gap, the first counts; the consensus may take the others in later steps.
    """
    slots = np.zeros((2 * len(sequence) + 1, classes))
    total = 0.0
    for h in used:
        total += posterior[h]
        _add_alignment(slots, sequence, tokens[token_offsets[h] : token_offsets[h + 1]], posterior[h])
    # In gaps that a hypothesis does not reach, or leaves empty, its mass counts for the null.
    for gap in range(0, len(slots), 2):
        slots[gap, 0] = total - slots[gap, 1:].sum()
    return slots


@numba.njit(cache=True, nogil=True)
def _add_alignment(slots, sequence, hypothesis, mass):
    """Add one hypothesis's mass to the slots along an optimal alignment."""
    start, end_a, end_b = 0, len(sequence), len(hypothesis)
    while start < end_a and start < end_b and sequence[start] == hypothesis[start]:
        slots[2 * start + 1, sequence[start]] += mass
        start += 1
    while end_a > start and end_b > start and sequence[end_a - 1] == hypothesis[end_b - 1]:
        end_a -= 1
        end_b -= 1
        slots[2 * end_a + 1, sequence[end_a]] += mass
    rows, columns = end_a - start, end_b - start
    cost = np.zeros((rows + 1, columns + 1), np.int32)
    for i in range(rows + 1):
        cost[i, 0] = i
    for j in range(columns + 1):
        cost[0, j] = j
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            different = sequence[start + i - 1] != hypothesis[start + j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + different, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    i, j, inserted = rows, columns, 0
    while i > 0 or j > 0:
        token = hypothesis[start + j - 1] if j > 0 else 0
        different = i > 0 and j > 0 and sequence[start + i - 1] != token
        matched = i > 0 and j > 0 and cost[i, j] == cost[i - 1, j - 1] + different
        if not matched and (i == 0 or cost[i, j] != cost[i - 1, j] + 1):
            inserted = token
            j -= 1
            continue
        # Walking backwards, the last token found in a gap is its first.
        slots[2 * (start + i), inserted] += mass
        inserted = 0
        slots[2 * (start + i) - 1, token if matched else 0] += mass
        i -= 1
        j -= matched
    slots[2 * start, inserted] += mass
