"""What the prefix beam search keeps from frame to frame, and how new prefixes replace those that leave the beam.

A slot is an index into the beam, and a prefix keeps its slot while it stays in the beam, so the work per frame here is
proportional to what changes. The trie has a node for each prefix that was ever in the beam; a prefix that leaves and
returns gets its old node, so that its remaining children receive its mass. Which prefixes stay is decided in
`ensemble.beam.kernel`. All functions are compiled into its `search`, and numba's cache does not notice changes to this
file: remove `__pycache__` after editing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.lm.automaton import advance

IMPOSSIBLE = np.float32(-1e30)  # log 0: sums over any number of frames stay finite, so no NaN arises
FLOOR = np.float32(-1e29)  # a prefix with a score at or below this has probability zero and is not created

# Columns of a trie node; SLOT is the prefix's slot, or -1 if it is not in the beam.
PARENT, TOKEN, CHILD, SIBLING, SLOT = range(5)
# Columns of an emission record: the record of the previous token, and the frame.
BEFORE, FRAME = range(2)


class Graph(NamedTuple):
    """What a token adds to a score: the weighted language model, an `Automaton`, and the token's bonus."""

    cells: np.ndarray
    dense_end: int
    weight: np.float32
    bonus: np.ndarray  # (C,) float32
    best_bonus: np.float32
    lowest: np.float32  # a lower bound of the language model's log-probabilities


class Slots(NamedTuple):
    """The beam: arrays over its slots. A free slot has node -1 and mass `IMPOSSIBLE`."""

    node: np.ndarray  # the prefix's node in the trie
    last: np.ndarray  # last token
    state: np.ndarray  # language model state
    record: np.ndarray  # emission record of the last token
    parent: np.ndarray  # the parent's slot, -1 if it is not in the beam
    source: np.ndarray  # index into `mass` of the parent's mass that the last token can extend
    edge: np.ndarray  # what the last token added to the score
    best_edge: np.ndarray  # the most that a next token can add
    nonblank: np.ndarray  # mass of the paths that end in the last token
    live_child: np.ndarray  # (width, C) 1 if the child for that token is in the beam


class Trie(NamedTuple):
    """All prefixes created so far, and the frames where their tokens were emitted."""

    nodes: np.ndarray  # (capacity, 5) int32
    records: np.ndarray  # (capacity, 2) int32
    counts: np.ndarray  # (2,) number of nodes and of records in use


class Candidates(NamedTuple):
    """Current and new prefixes that compete for the beam.

    `what` is slot + width * token: the prefix in that slot extended by the token, or the prefix itself for token 0.
    """

    key: np.ndarray  # scores
    what: np.ndarray


@njit(error_model="numpy")
def edge(graph, state, token):
    """What `token` adds to the score of a prefix in `state`."""
    return graph.weight * advance(graph.cells, graph.dense_end, state, token)[0] + graph.bonus[token]


@njit(error_model="numpy")
def best_edge(graph, state):
    """An upper bound of what any token adds to the score of a prefix in `state`."""
    # A negative weight favours the least probable token. The bound is loose then, because states do not store it.
    log_prob = graph.cells[state - 1].log_prob if graph.weight >= 0 else graph.lowest
    return graph.weight * log_prob + graph.best_bonus


@njit(error_model="numpy", fastmath={"contract", "nsz", "nnan", "ninf", "reassoc"})
def highest_sum(mass, best_edge, count):
    """The largest sum of the first `count` values of two arrays: no prefix exceeds it before its token is added."""
    highest = mass[0] + best_edge[0]
    for slot in range(count):
        highest = max(highest, mass[slot] + best_edge[slot])
    return highest


@njit(error_model="numpy")
def _child(trie, parent, token):
    """The node of prefix `parent` + `token`, created if there is none."""
    nodes = trie.nodes
    node = nodes[parent, CHILD]
    while node >= 0 and nodes[node, TOKEN] != token:
        node = nodes[node, SIBLING]
    if node < 0:
        node = trie.counts[0]
        trie.counts[0] += 1
        nodes[node, PARENT] = parent
        nodes[node, TOKEN] = token
        nodes[node, CHILD] = -1
        nodes[node, SIBLING] = nodes[parent, CHILD]
        nodes[node, SLOT] = -1
        nodes[parent, CHILD] = node
    return node


@njit(error_model="numpy")
def _add_record(trie, before, frame):
    """Record that the token following that of record `before` was emitted at `frame`."""
    record = trie.counts[1]
    trie.counts[1] += 1
    trie.records[record, BEFORE] = before
    trie.records[record, FRAME] = frame
    return record


@njit(error_model="numpy")
def _link(graph, slots, parent, slot):
    """Connect the prefix in `slot` to its parent's slot, from which it receives mass."""
    token = slots.last[slot]
    slots.parent[slot] = parent
    slots.source[slot] = parent + len(slots.last) if slots.last[parent] == token else parent
    slots.edge[slot] = edge(graph, slots.state[parent], token)
    slots.live_child[parent, token] = 1


@njit(error_model="numpy")
def create_prefixes(count, frame, graph, slots, trie, candidates, stays, created):
    """Create the nodes and records of the new prefixes among the `count` candidates; returns how many there are.

    Their scores and tokens are moved to the front of `candidates`; row k of `created` is the new prefix's node, record,
    language model state and parent's slot. `stays` becomes 1 for the slots whose prefixes stay.
    """
    width = len(slots.last)
    key, what = candidates.key, candidates.what
    stays[:] = 0
    created_count = 0
    for k in range(count):
        slot, token = what[k] % width, what[k] // width
        if token == 0:
            stays[slot] = 1
        else:
            created[created_count, 0] = _child(trie, slots.node[slot], token)
            created[created_count, 1] = _add_record(trie, slots.record[slot], frame)
            created[created_count, 2] = advance(graph.cells, graph.dense_end, slots.state[slot], token)[1]
            created[created_count, 3] = slot
            key[created_count], what[created_count] = key[k], token
            created_count += 1
    return created_count


@njit(error_model="numpy")
def record_emissions(beam, frame, slots, trie, stays, inflow):
    """Give each newly emitted token a record of this frame, linked to its parent's record as of the previous frame."""
    first = trie.counts[1]
    for slot in range(beam):
        if inflow[slot] > 0 and stays[slot] and slots.parent[slot] >= 0:
            _add_record(trie, slots.record[slots.parent[slot]], frame)
    for slot in range(beam):
        if inflow[slot] > 0 and stays[slot] and slots.parent[slot] >= 0:
            slots.record[slot] = first
            first += 1


@njit(error_model="numpy")
def replace_prefixes(beam, created_count, nowhere, graph, slots, trie, new_mass, candidates, stays, created):
    """Put the `created_count` new prefixes into the slots of those that do not stay."""
    width = len(slots.last)
    key, what = candidates.key, candidates.what
    for slot in range(beam):
        parent = slots.parent[slot]
        if not stays[slot] and slots.node[slot] >= 0:
            trie.nodes[slots.node[slot], SLOT] = -1
            slots.node[slot] = -1
            new_mass[slot] = IMPOSSIBLE
        elif parent < 0 or stays[parent]:
            continue
        if parent >= 0:
            slots.live_child[parent, slots.last[slot]] = 0
            slots.parent[slot] = -1
            slots.source[slot] = nowhere
    slot = 0
    for k in range(created_count):
        while stays[slot]:
            slot += 1
        node, state, parent = created[k, 0], created[k, 2], created[k, 3]
        trie.nodes[node, SLOT] = slot
        slots.node[slot] = node
        slots.last[slot] = what[k]
        slots.record[slot] = created[k, 1]
        slots.state[slot] = state
        slots.best_edge[slot] = best_edge(graph, state)
        slots.nonblank[slot] = key[k]
        new_mass[slot] = key[k]
        new_mass[width + slot] = IMPOSSIBLE
        if stays[parent]:
            _link(graph, slots, parent, slot)
        child = trie.nodes[node, CHILD]
        while child >= 0:
            if trie.nodes[child, SLOT] >= 0:
                _link(graph, slots, slot, trie.nodes[child, SLOT])
            child = trie.nodes[child, SIBLING]
        slot += 1
