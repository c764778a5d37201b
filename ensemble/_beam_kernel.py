"""The compiled heart of the prefix beam search: one utterance, flat arrays, no Python objects, no GIL.

It does not check shapes, share work among threads or build hypotheses: `ensemble.beam` does.

What makes it fast without changing its result:
1. A live prefix keeps its slot of the beam from frame to frame. Mass that flows from a live prefix into a live child is
   merged first, for all slots at once, in loops without branches that LLVM turns into vector code.
2. A frame's tokens are sorted once. A prefix stops expanding at the first token whose upper bound (prefix + token + the
   prefix's best language model term) cannot beat the running threshold, the worst score that would still stay.
3. The trie is flat arrays, and a node is made only for a survivor of the selection.
Masses are float32 logarithms relative to the last frame's best prefix, so they stay small and their rounding harmless;
what was taken out is summed in float64.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

IMPOSSIBLE = np.float32(-1e30)  # stands for log 0: sums of it over any number of frames stay finite, so no NaN arises
FLOOR = np.float32(-1e29)  # a prefix at or below this has probability zero and is never made
LANES = 16  # arrays over slots are padded to whole vectors

# Columns of a trie node.
PARENT, TOKEN, CHILD, SIBLING, SLOT = range(5)
NODE_COLUMNS = 5

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)
_LOG2E = np.float32(1 / math.log(2))
_LN2 = np.float32(math.log(2))
_FAR = np.float32(30.0)  # exp(-30) is far below float32's resolution of 1
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the mantissa


@intrinsic
def _power_of_two(typing_context, shifted):
    """2**n as float32 from the float32 `n + _ROUND`, by moving n's bits into the exponent."""

    def build(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], ir.IntType(32))
        one = ir.Constant(ir.IntType(32), 127)
        return builder.bitcast(builder.shl(builder.add(bits, one), ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), build


def _coefficients(function, low: float, high: float, degree: int) -> tuple[np.float32, ...]:
    """Chebyshev interpolation of `function` as float32 coefficients, lowest power first."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(np.float32(c) for c in fit.convert(kind=np.polynomial.Polynomial).coef)


_EXP = _coefficients(np.exp, -math.log(2) / 2, math.log(2) / 2, 6)
_LOG1P = _coefficients(lambda y: np.log1p(y) / y, 1e-9, 1.0, 9)


@njit(inline="always")
def log_add(a, b):
    """log(exp a + exp b) in float32 to about 1e-7, without a branch or a library call, so that loops vectorise."""
    high = a if a > b else b
    low = b if a > b else a
    d = low - high
    d = d if d > -_FAR else -_FAR
    shifted = d * _LOG2E + _ROUND
    r = d - (shifted - _ROUND) * _LN2
    e0, e1, e2, e3, e4, e5, e6 = _EXP
    y = e0 + r * (e1 + r * (e2 + r * (e3 + r * (e4 + r * (e5 + r * e6)))))
    y *= _power_of_two(shifted)
    l0, l1, l2, l3, l4, l5, l6, l7, l8, l9 = _LOG1P
    p = l0 + y * (l1 + y * (l2 + y * (l3 + y * (l4 + y * (l5 + y * (l6 + y * (l7 + y * (l8 + y * l9))))))))
    return high + y * p


# No NaN arises here, but NaN in the input must be seen: so no "nnan", and nothing that reorders sums.
_FAST = {"contract", "nsz"}


@njit(error_model="numpy", fastmath=_FAST)
def _prepare(values, shift, row):
    """Copy one frame into `row`, `shift` taken out, log 0 made finite. False if no decoder can use the frame."""
    peak = IMPOSSIBLE
    bad = 0
    for c in range(len(values)):
        value = values[c]
        bad |= not value < np.inf  # NaN compares false
        peak = value if value > peak else peak
        row[c] = (value if value > IMPOSSIBLE else IMPOSSIBLE) - shift
    return bad == 0 and peak > FLOOR


@njit(error_model="numpy", fastmath=_FAST)
def _propagate(row, mass, nonblank, last, source, edge, new_mass, emitted):
    """Let every live prefix stay (blank, or its last token again) and take what flows in from a live parent."""
    width = len(last)
    silence = row[0]
    for j in range(width):
        token = row[last[j]]
        inflow = mass[source[j]] + edge[j] + token
        again = nonblank[j] + token
        blank = mass[j] + silence
        spoken = log_add(again, inflow)
        nonblank[j] = spoken
        new_mass[width + j] = blank
        new_mass[j] = log_add(spoken, blank)
        emitted[j] = inflow > max(again, blank)


@njit(error_model="numpy")
def _sort_slots(order, key):
    """Insertion sort, best first: from frame to frame the order hardly changes."""
    for k in range(1, len(order)):
        slot = order[k]
        value = key[slot]
        while k > 0 and key[order[k - 1]] < value:
            order[k] = order[k - 1]
            k -= 1
        order[k] = slot


@njit(error_model="numpy")
def _sort_tokens(row, enough, token, token_key):
    """Tokens whose log-probability exceeds `enough`, best first; returns how many."""
    count = 0
    for c in range(1, len(row)):
        value = row[c]
        if value > enough:
            k = count
            while k > 0 and token_key[k - 1] < value:
                token_key[k] = token_key[k - 1]
                token[k] = token[k - 1]
                k -= 1
            token_key[k] = value
            token[k] = c
            count += 1
    return count


@njit(error_model="numpy")
def _sift_down(heap_key, heap_slot, heap_token, count, key, slot, token):
    """Put a candidate at the root of the min-heap and let it sink."""
    k = 0
    while True:
        child = 2 * k + 1
        if child >= count:
            break
        if child + 1 < count and heap_key[child + 1] < heap_key[child]:
            child += 1
        if heap_key[child] >= key:
            break
        heap_key[k], heap_slot[k], heap_token[k] = heap_key[child], heap_slot[child], heap_token[child]
        k = child
    heap_key[k], heap_slot[k], heap_token[k] = key, slot, token


@njit(error_model="numpy")
def _sift_up(heap_key, heap_slot, heap_token, k, key, slot, token):
    """Put a candidate at leaf `k` of the min-heap and let it rise."""
    while k > 0 and heap_key[(k - 1) // 2] > key:
        up = (k - 1) // 2
        heap_key[k], heap_slot[k], heap_token[k] = heap_key[up], heap_slot[up], heap_token[up]
        k = up
    heap_key[k], heap_slot[k], heap_token[k] = key, slot, token


@njit(error_model="numpy")
def _select(
    beam, order, key, mass, base, last, state, edges, live_child,
    token, token_key, count, heap_key, heap_slot, heap_token,
):  # fmt: skip
    """Find the new prefixes that belong to the best `beam` of live and new ones together; returns how many.

    They are left in the heap, each as (score, slot of its parent, token). As many of the worst live prefixes, the last
    in `order`, must leave. The threshold is the worst score that would still stay, and only rises.
    """
    width = len(last)
    accepted = 0
    threshold = max(FLOOR, key[order[beam - 1]])
    for k in range(beam):
        slot = order[k]
        bound = base[slot]
        for n in range(count):
            value = token_key[n]
            if bound + value <= threshold:
                break
            c = token[n]
            if live_child[slot, c]:
                continue
            before = mass[width + slot] if c == last[slot] else mass[slot]
            score = before + edges[state[slot], c] + value
            if score <= threshold:
                continue
            if accepted > 0 and (accepted == beam or heap_key[0] <= key[order[beam - 1 - accepted]]):
                _sift_down(heap_key, heap_slot, heap_token, accepted, score, slot, c)
            else:
                _sift_up(heap_key, heap_slot, heap_token, accepted, score, slot, c)
                accepted += 1
            threshold = max(FLOOR, heap_key[0])
            if accepted < beam:
                threshold = max(FLOOR, min(heap_key[0], key[order[beam - 1 - accepted]]))
    return accepted


@njit(error_model="numpy")
def _child(nodes, made, parent, token):
    """The node of `parent` + `token`, made if it is new; returns (node, number of nodes)."""
    node = nodes[parent, CHILD]
    while node >= 0 and nodes[node, TOKEN] != token:
        node = nodes[node, SIBLING]
    if node < 0:
        node = made
        made += 1
        nodes[node, PARENT] = parent
        nodes[node, TOKEN] = token
        nodes[node, CHILD] = -1
        nodes[node, SIBLING] = nodes[parent, CHILD]
        nodes[node, SLOT] = -1
        nodes[parent, CHILD] = node
    return node, made


@njit(error_model="numpy")
def _finish(log_probs, nbest, order, mass, offset, end, state, node, nodes, record, records, fault):
    """Read the best `nbest` prefixes back from the trie: what `search` returns."""
    frame_count = len(log_probs)
    key = np.full(len(node), -np.inf, np.float32)
    possible = 0
    for slot in order:
        if mass[slot] > FLOOR and node[slot] >= 0:
            key[slot] = mass[slot] + end[state[slot]]
            possible += 1
    _sort_slots(order, key)
    count = min(nbest, possible)

    lengths = np.zeros(count, np.int64)
    scores = np.empty(count, np.float64)
    for h in range(count):
        slot = order[h]
        scores[h] = offset + mass[slot] + end[state[slot]]
        n = node[slot]
        while n > 0:
            lengths[h] += 1
            n = nodes[n, PARENT]

    total = lengths.sum()
    tokens = np.empty(total, np.int32)
    frames = np.empty(total, np.int32)
    confidences = np.empty(total, np.float32)
    first = 0
    for h in range(count):
        n, r = node[order[h]], record[order[h]]
        until = frame_count
        for k in range(first + lengths[h] - 1, first - 1, -1):
            token, start = nodes[n, TOKEN], records[r, 1]
            # From its emission to the next token's, the token is where it is most probable.
            peak = start
            for t in range(start + 1, until):
                if log_probs[t, token] > log_probs[peak, token]:
                    peak = t
            tokens[k] = token
            frames[k] = peak
            confidences[k] = min(_ONE, np.exp(log_probs[peak, token]))
            until = start
            n, r = nodes[n, PARENT], records[r, 0]
        first += lengths[h]
    return lengths, tokens, frames, confidences, scores, fault


@njit(nogil=True, cache=True, error_model="numpy", fastmath=_FAST)
def search(log_probs, beam, nbest, edges, next_state, best_edge, end):
    """Search one utterance `(T, C)`; returns the `nbest` best prefixes.

    `edges (S, C)` is what a token adds to a score in a language model state, `next_state (S, C)` where it leads,
    `best_edge (S,)` an upper bound of `edges` over tokens, `end (S,)` what the end of the sentence adds; state 0 is
    the start. Returns (lengths, tokens, frames, confidences, scores, fault): the H hypotheses' lengths and scores,
    best first, their tokens, frames and confidences one after the other, and the first frame that cannot be used, or -1.
    """
    frame_count, classes = log_probs.shape
    width = (beam + LANES - 1) // LANES * LANES
    nowhere = 2 * width  # a place in `mass` that is always impossible: the parent of those whose parent is not live

    mass = np.full(2 * width + 1, IMPOSSIBLE)  # [0, width) all paths, [width, 2 width) those that end in a blank
    new_mass = np.full(2 * width + 1, IMPOSSIBLE)
    nonblank = np.full(width, IMPOSSIBLE)
    edge = np.zeros(width, np.float32)
    base = np.full(width, IMPOSSIBLE)
    last = np.zeros(width, np.uint32)
    source = np.full(width, nowhere, np.uint32)
    emitted = np.zeros(width, np.uint8)
    parent_slot = np.full(width, -1, np.int32)
    node = np.full(width, -1, np.int32)
    state = np.zeros(width, np.int32)
    record = np.full(width, -1, np.int32)
    order = np.arange(beam).astype(np.int32)
    live_child = np.zeros((width, classes), np.uint8)

    row = np.empty(classes, np.float32)
    token = np.empty(classes, np.int32)
    token_key = np.empty(classes, np.float32)
    heap_key = np.empty(beam, np.float32)
    heap_slot = np.empty(beam, np.int32)
    heap_token = np.empty(beam, np.int32)
    born = np.empty((beam, 4), np.int32)

    nodes = np.empty((beam * frame_count + 1, NODE_COLUMNS), np.int32)
    records = np.empty((beam * frame_count + 1, 2), np.int32)  # (record of the token before, frame)
    nodes[0, PARENT], nodes[0, TOKEN], nodes[0, CHILD], nodes[0, SIBLING], nodes[0, SLOT] = -1, 0, -1, -1, 0
    made, recorded = 1, 0
    node[0] = 0
    mass[0] = mass[width] = 0.0
    shift = _ZERO
    offset = 0.0

    for t in range(frame_count):
        if not _prepare(log_probs[t], shift, row):
            return _finish(log_probs, 0, order, mass, offset, end, state, node, nodes, record, records, t)
        offset += shift
        top_base = IMPOSSIBLE
        for k in range(beam):
            base[k] = mass[k] + best_edge[state[k]]
            top_base = max(top_base, base[k])
        _propagate(row, mass, nonblank, last, source, edge, new_mass, emitted)
        _sort_slots(order, new_mass)
        enough = max(FLOOR, new_mass[order[beam - 1]]) - top_base
        count = _sort_tokens(row, enough, token, token_key)
        accepted = _select(
            beam, order, new_mass, mass, base, last, state, edges, live_child,
            token, token_key, count, heap_key, heap_slot, heap_token,
        )  # fmt: skip
        shift = new_mass[order[0]]

        # Tokens emitted anew (more mass flowed in than stayed) and new prefixes get a record; both look at their
        # parents' records of the last frame, so all are looked up before any is overwritten.
        for k in range(accepted):
            slot = heap_slot[k]
            born[k, 0], made = _child(nodes, made, node[slot], heap_token[k])
            born[k, 1] = record[slot]
            born[k, 2] = slot
            born[k, 3] = next_state[state[slot], heap_token[k]]
            shift = max(shift, heap_key[k])
        first_record = recorded
        for k in range(beam - accepted):
            slot = order[k]
            if emitted[slot] and parent_slot[slot] >= 0:
                records[recorded, 0] = record[parent_slot[slot]]
                records[recorded, 1] = t
                recorded += 1
        for k in range(beam - accepted):
            slot = order[k]
            if emitted[slot] and parent_slot[slot] >= 0:
                record[slot] = first_record
                first_record += 1

        for k in range(beam - accepted, beam):
            slot = order[k]
            if node[slot] >= 0:
                nodes[node[slot], SLOT] = -1
                node[slot] = -1
                live_child[slot] = 0
                if parent_slot[slot] >= 0:
                    live_child[parent_slot[slot], last[slot]] = 0
        if accepted > 0:
            for slot in range(beam):
                if parent_slot[slot] >= 0 and node[parent_slot[slot]] < 0:
                    parent_slot[slot] = -1
                    source[slot] = nowhere

        for k in range(accepted):
            if node[born[k, 2]] < 0:
                born[k, 2] = -1  # the parent left in this very frame
        for k in range(accepted):
            slot = order[beam - accepted + k]
            n, c = born[k, 0], heap_token[k]
            node[slot] = n
            nodes[n, SLOT] = slot
            last[slot] = c
            state[slot] = born[k, 3]
            records[recorded, 0] = born[k, 1]
            records[recorded, 1] = t
            record[slot] = recorded
            recorded += 1
            new_mass[slot] = heap_key[k]
            new_mass[width + slot] = IMPOSSIBLE
            nonblank[slot] = heap_key[k]
            parent = born[k, 2]
            parent_slot[slot] = parent
            source[slot] = nowhere
            if parent >= 0:
                _adopt(parent, slot, c, width, last, source, parent_slot, live_child)
                edge[slot] = edges[state[parent], c]
            child = nodes[n, CHILD]
            while child >= 0:
                orphan = nodes[child, SLOT]
                if orphan >= 0:
                    _adopt(slot, orphan, last[orphan], width, last, source, parent_slot, live_child)
                    edge[orphan] = edges[state[slot], last[orphan]]
                child = nodes[child, SIBLING]
        mass, new_mass = new_mass, mass

    return _finish(log_probs, nbest, order, mass, offset, end, state, node, nodes, record, records, -1)


@njit(error_model="numpy")
def _adopt(parent, slot, token, width, last, source, parent_slot, live_child):
    """Let the live prefix in `slot` take what flows from its parent, which is live too."""
    parent_slot[slot] = parent
    source[slot] = parent + width if last[parent] == token else parent
    live_child[parent, token] = 1
