"""The compiled prefix beam search of one utterance: flat arrays, no Python objects, and the GIL is released.

Three properties make it fast without changing its result:
1. A prefix keeps its slot in the beam from frame to frame. The mass that flows from a prefix into its child is added
   first, for all slots at once, in loops without branches that the compiler vectorises.
2. A frame's tokens are tried best first, against a running threshold: the worst score that would still stay in the
   beam. The frame ends at the first token whose upper bound (best prefix + token) is not above the threshold. In most
   frames that is the first one, because no token can bring a new prefix into the beam.
3. The trie is flat arrays, and a node is created only for a prefix that survives the selection.
Masses are float32 logarithms relative to the best prefix of the frame before, so they and their rounding errors stay
small; what was subtracted is summed in float64. Language model terms are part of a prefix's mass, as a constant factor.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ensemble.beam.log_add import FAST, log_add
from ensemble.beam.state import (
    BEFORE,
    FLOOR,
    FRAME,
    IMPOSSIBLE,
    PARENT,
    SLOT,
    TOKEN,
    Candidates,
    Slots,
    Trie,
    best_edge,
    create_prefixes,
    edge,
    highest_sum,
    record_emissions,
    replace_prefixes,
)
from ensemble.lm.automaton import START, advance

LANES = 8  # arrays over slots are padded to whole vectors
_ONE = np.float32(1.0)


@njit(error_model="numpy", fastmath=FAST)
def _prepare(values, shift, row):
    """Copy a frame into `row`, with `shift` subtracted and log 0 made finite; False if the frame cannot be decoded."""
    peak = IMPOSSIBLE
    bad = 0
    for c in range(len(values)):
        value = values[c]
        bad |= not value < np.inf  # NaN compares false
        peak = value if value > peak else peak
        row[c] = (value if value > IMPOSSIBLE else IMPOSSIBLE) - shift
    return bad == 0 and peak > FLOOR


@njit(error_model="numpy", fastmath=FAST)
def _propagate(row, slots, mass, new_mass, inflow, token):
    """Extend every prefix by a blank, by its last token again, and by what its parent emits in this frame.

    `inflow` becomes the difference between the parent's contribution and the prefix's own: above 0, the last token is
    newly emitted in this frame.
    """
    last, source, edge, nonblank = slots.last, slots.source, slots.edge, slots.nonblank
    width = len(last)
    blank_score = row[0]
    for j in range(width):
        token[j] = row[last[j]]
        inflow[j] = mass[source[j]]
    # Two loops, because the second sum depends on the first: separated, the processor overlaps many of each.
    for j in range(width):
        entering = inflow[j] + edge[j] + token[j]
        again = nonblank[j] + token[j]
        blank = mass[j] + blank_score
        nonblank[j] = log_add(again, entering)
        new_mass[width + j] = blank
        inflow[j] = entering - max(again, blank)
    for j in range(width):
        new_mass[j] = log_add(nonblank[j], new_mass[width + j])


@njit(error_model="numpy", fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def _extremes(values, count):
    """Smallest and largest of the first `count` values."""
    low, high = values[0], values[0]
    for k in range(count):
        low = min(low, values[k])
        high = max(high, values[k])
    return low, high


@njit(error_model="numpy")
def _sort_tokens(row, minimum, first, token, token_key):
    """Sort the tokens above `minimum`, best first, after `first` at index 0; returns their number including `first`."""
    count = 1
    for c in range(1, len(row)):
        value = row[c]
        if value > minimum and c != first:
            k = count
            while k > 1 and token_key[k - 1] < value:
                token_key[k] = token_key[k - 1]
                token[k] = token[k - 1]
                k -= 1
            token_key[k] = value
            token[k] = c
            count += 1
    return count


@njit(error_model="numpy")
def _keep_best(candidates, count, beam):
    """Move the best `beam` of `count` candidates to the front, in any order; returns the worst score kept.

    The separating score is found by interpolation on counts: counting vectorises, sorting does not.
    """
    key, what = candidates.key, candidates.what
    low, high = _extremes(key, count)
    above_low, above_high = count, 0
    low -= _ONE + abs(low) * np.float32(0.01)
    while above_high < beam:
        fraction = np.float32(above_low - beam + 0.5) / np.float32(above_low - above_high)
        fraction = min(max(fraction, np.float32(0.1)), np.float32(0.9))
        middle = low + (high - low) * fraction
        if middle <= low or middle >= high:
            break  # no float in between: the rest is a tie
        above = 0
        for k in range(count):
            above += key[k] > middle
        if above >= beam:
            low, above_low = middle, above
        if above <= beam:
            high, above_high = middle, above
    ties = beam - above_high
    kept = 0
    worst = key[0] + np.float32(1e30)
    for k in range(count):
        tie = low < key[k] <= high and ties > 0
        if key[k] > high or tie:
            ties -= tie
            worst = min(worst, key[k])
            key[kept], what[kept] = key[k], what[k]
            kept += 1
    return worst


@njit(error_model="numpy", fastmath=FAST)
def _compete(row, beam, worst, top, graph, slots, mass, new_mass, candidates, token, token_key):
    """Select the best `beam` of current and new prefixes into `candidates`; returns how many, or 0 if nothing changes.

    `worst` is the score of the worst prefix in the beam; `top` bounds a prefix's score plus its next token's edge.
    """
    threshold = max(FLOOR, worst)
    best = 1
    for c in range(2, len(row)):
        best = c if row[c] > row[best] else best
    if len(row) < 2 or top + row[best] <= threshold:
        return 0
    width = len(slots.last)
    key, what = candidates.key, candidates.what
    count = 0
    for slot in range(beam):
        if new_mass[slot] > FLOOR:
            key[count], what[count] = new_mass[slot], slot
            count += 1
    token[0], token_key[0] = best, row[best]
    tokens = 1
    n = 0
    while n < tokens and top + token_key[n] > threshold:
        c, value = token[n], token_key[n]
        for slot in range(beam):
            if mass[slot] + slots.best_edge[slot] + value > threshold and not slots.live_child[slot, c]:
                before = mass[width + slot] if c == slots.last[slot] else mass[slot]
                score = before + edge(graph, slots.state[slot], c) + value
                if score > threshold:
                    key[count], what[count] = score, slot + width * c
                    count += 1
        if count > beam:
            threshold = max(FLOOR, _keep_best(candidates, count, beam))
            count = beam
        if n == 0:
            # The best token has raised the threshold, so few others are left to sort.
            tokens = _sort_tokens(row, threshold - top, best, token, token_key)
        n += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def search(log_probs, beam, nbest, graph):
    """Search one utterance `(T, C)` float32 for its `nbest` best prefixes.

    Returns (lengths, tokens, frames, confidences, scores, fault): lengths and scores of the H hypotheses, best first;
    their tokens, frames and confidences one after the other; and the first frame that cannot be decoded, or -1.
    """
    frame_count, classes = log_probs.shape
    width = (beam + LANES - 1) // LANES * LANES
    nowhere = 2 * width  # where `mass` is always IMPOSSIBLE: the source of slots whose parent is not in the beam
    # [0, width) is the mass of all paths of a slot's prefix, [width, 2 width) of those that end in a blank.
    mass = np.full(2 * width + 1, IMPOSSIBLE)
    new_mass = np.full(2 * width + 1, IMPOSSIBLE)
    slots = Slots(
        node=np.full(width, -1, np.int32),
        last=np.zeros(width, np.uint32),
        state=np.full(width, START, np.int32),
        record=np.full(width, -1, np.int32),
        parent=np.full(width, -1, np.int32),
        source=np.full(width, nowhere, np.uint32),
        edge=np.zeros(width, np.float32),
        best_edge=np.full(width, best_edge(graph, START), np.float32),
        nonblank=np.full(width, IMPOSSIBLE),
        live_child=np.zeros((width, classes), np.uint8),
    )
    # A frame creates at most `beam` nodes, and at most one record per prefix.
    trie = Trie(
        nodes=np.empty((beam * frame_count + 1, 5), np.int32),
        records=np.empty((beam * frame_count + 1, 2), np.int32),
        counts=np.array([1, 0], np.int32),
    )
    trie.nodes[0] = -1
    trie.nodes[0, SLOT] = 0
    slots.node[0] = 0
    mass[0] = mass[width] = 0.0

    row = np.empty(classes, np.float32)
    inflow = np.empty(width, np.float32)
    token_mass = np.empty(width, np.float32)
    token = np.empty(classes, np.int32)
    token_key = np.empty(classes, np.float32)
    candidates = Candidates(np.empty(2 * beam, np.float32), np.empty(2 * beam, np.int32))
    stays = np.ones(width, np.uint8)
    created = np.empty((beam, 4), np.int32)
    shift = np.float32(0.0)
    offset = np.float64(0.0)

    for t in range(frame_count):
        if not _prepare(log_probs[t], shift, row):
            return _read_back(log_probs, 0, graph, slots, trie, mass, offset, t)
        offset += shift
        top = highest_sum(mass, slots.best_edge, beam)
        _propagate(row, slots, mass, new_mass, inflow, token_mass)
        worst, shift = _extremes(new_mass, beam)
        count = _compete(row, beam, worst, top, graph, slots, mass, new_mass, candidates, token, token_key)
        created_count = 0
        if count > 0:
            created_count = create_prefixes(count, t, graph, slots, trie, candidates, stays, created)
        if _extremes(inflow, beam)[1] > 0:
            record_emissions(beam, t, slots, trie, stays, inflow)
        if created_count > 0:
            shift = max(shift, _extremes(candidates.key, created_count)[1])
            replace_prefixes(beam, created_count, nowhere, graph, slots, trie, new_mass, candidates, stays, created)
        stays[:] = 1
        mass, new_mass = new_mass, mass
    return _read_back(log_probs, nbest, graph, slots, trie, mass, offset, -1)


@njit(error_model="numpy")
def _read_back(log_probs, nbest, graph, slots, trie, mass, offset, fault):
    """Read the `nbest` best prefixes of the beam from the trie, as `search` returns them."""
    width = len(slots.last)
    key = np.full(width, -np.inf)
    possible = 0
    for slot in range(width):
        if mass[slot] > FLOOR and slots.node[slot] >= 0:
            end = advance(graph.cells, graph.dense_end, slots.state[slot], 0)[0]
            key[slot] = offset + mass[slot] + graph.weight * end
            possible += 1
    order = np.argsort(-key, kind="mergesort")[: min(nbest, possible)]
    lengths = np.zeros(len(order), np.int64)
    for h in range(len(order)):
        node = slots.node[order[h]]
        while node > 0:
            lengths[h] += 1
            node = trie.nodes[node, PARENT]

    total = lengths.sum()
    tokens = np.empty(total, np.int32)
    frames = np.empty(total, np.int32)
    confidences = np.empty(total, np.float32)
    first = 0
    for h in range(len(order)):
        node, record = slots.node[order[h]], slots.record[order[h]]
        until = len(log_probs)
        for k in range(first + lengths[h] - 1, first - 1, -1):
            token, start = trie.nodes[node, TOKEN], trie.records[record, FRAME]
            # Between its emission and that of the next token, the token is placed where it is most probable.
            peak = start
            for t in range(start + 1, until):
                if log_probs[t, token] > log_probs[peak, token]:
                    peak = t
            tokens[k] = token
            frames[k] = peak
            confidences[k] = min(_ONE, np.exp(log_probs[peak, token]))
            until = start
            node, record = trie.nodes[node, PARENT], trie.records[record, BEFORE]
        first += lengths[h]
    return lengths, tokens, frames, confidences, key[order], fault
