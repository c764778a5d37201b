"""What a prefix beam search keeps between frames: slots, trie, emission records; and how new prefixes replace old ones.

A slot is a place in the beam. A live prefix keeps its slot, so a frame costs here in proportion to what changes. The
trie has a node for each prefix that was ever live; the node of a prefix that left and comes back is found again, so
that its children that stayed take its mass. This module chooses nothing: `_beam_kernel` does. Everything is compiled
into `_beam_kernel.search`; numba's cache of it does not see changes to this file (remove `__pycache__` after editing).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

IMPOSSIBLE = np.float32(-1e30)  # stands for log 0: sums of it over any number of frames stay finite, so no NaN arises
FLOOR = np.float32(-1e29)  # a prefix at or below this has probability zero and is never made
LANES = 8  # arrays over slots are padded to whole vectors

_ONE = np.float32(1.0)

# Columns of a trie node; SLOT is its place in the beam, or -1.
PARENT, TOKEN, CHILD, SIBLING, SLOT = range(5)
# Columns of an emission record: the record of the token before, the frame.
BEFORE, FRAME = range(2)


class Graph(NamedTuple):
    """What a token adds to a score in each language model state; state 0 is the start."""

    edges: np.ndarray  # (S, C) float32
    next_state: np.ndarray  # (S, C) int32
    best_edge: np.ndarray  # (S,) float32, an upper bound of `edges` over tokens
    end: np.ndarray  # (S,) float32, what the end of the sentence adds


class Slots(NamedTuple):
    """The beam: arrays over its slots. A free slot has node -1 and no mass."""

    node: np.ndarray
    last: np.ndarray  # last token
    state: np.ndarray  # language model state
    record: np.ndarray  # last token's emission
    parent: np.ndarray  # the parent's slot, -1 if it is not live
    source: np.ndarray  # where in `mass` inflow comes from
    edge: np.ndarray  # what the last token added to the score
    best_edge: np.ndarray  # what the next token can add at most
    nonblank: np.ndarray  # mass of paths that end in the last token
    live_child: np.ndarray  # (width, C) 1 where the child by that token is live


class Trie(NamedTuple):
    nodes: np.ndarray
    records: np.ndarray
    counts: np.ndarray  # nodes made, records made


class Candidates(NamedTuple):
    """Live and new prefixes that compete for the beam; `what` is slot + width * token, token 0 for a live prefix."""

    key: np.ndarray
    what: np.ndarray


@njit(error_model="numpy")
def _child(trie, parent, token):
    """The node of prefix `parent` + `token`, made if it is new."""
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
def _emit(trie, before, frame):
    """Note that the token after the one of record `before` was emitted at `frame`."""
    record = trie.counts[1]
    trie.counts[1] += 1
    trie.records[record, BEFORE] = before
    trie.records[record, FRAME] = frame
    return record


@njit(error_model="numpy")
def _adopt(graph, slots, parent, slot):
    """Let the live prefix in `slot` take what flows from its parent, which is live too."""
    token = slots.last[slot]
    slots.parent[slot] = parent
    slots.source[slot] = parent + len(slots.last) if slots.last[parent] == token else parent
    slots.edge[slot] = graph.edges[slots.state[parent], token]
    slots.live_child[parent, token] = 1


@njit(error_model="numpy")
def create_prefixes(count, frame, graph, slots, trie, candidates, stays, births):
    """Make the nodes and records of the new prefixes among the `count` candidates; returns how many there are.

    Their scores and tokens move to the front of `candidates`; `stays` is left holding 1 for the live that stay.
    """
    width = len(slots.last)
    key, what = candidates.key, candidates.what
    stays[:] = 0
    born = 0
    for k in range(count):
        slot, token = what[k] % width, what[k] // width
        if token == 0:
            stays[slot] = 1
        else:
            births[born, 0] = _child(trie, slots.node[slot], token)
            births[born, 1] = _emit(trie, slots.record[slot], frame)
            births[born, 2] = graph.next_state[slots.state[slot], token]
            births[born, 3] = slot
            key[born], what[born] = key[k], token
            born += 1
    return born


@njit(error_model="numpy")
def record_emissions(beam, frame, slots, trie, stays, inflow):
    """Give tokens that were emitted anew a record of this frame, on top of their parents' records of the last."""
    first = trie.counts[1]
    for slot in range(beam):
        if inflow[slot] > 0 and stays[slot] and slots.parent[slot] >= 0:
            _emit(trie, slots.record[slots.parent[slot]], frame)
    for slot in range(beam):
        if inflow[slot] > 0 and stays[slot] and slots.parent[slot] >= 0:
            slots.record[slot] = first
            first += 1


@njit(error_model="numpy")
def replace(beam, born, nowhere, graph, slots, trie, new_mass, candidates, stays, births):
    """Put the `born` new prefixes into the slots of those that do not stay."""
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
    for k in range(born):
        while stays[slot]:
            slot += 1
        node, state, parent = births[k, 0], births[k, 2], births[k, 3]
        trie.nodes[node, SLOT] = slot
        slots.node[slot] = node
        slots.last[slot] = what[k]
        slots.record[slot] = births[k, 1]
        slots.state[slot] = state
        slots.best_edge[slot] = graph.best_edge[state]
        slots.nonblank[slot] = key[k]
        new_mass[slot] = key[k]
        new_mass[width + slot] = IMPOSSIBLE
        if stays[parent]:
            _adopt(graph, slots, parent, slot)
        child = trie.nodes[node, CHILD]
        while child >= 0:
            if trie.nodes[child, SLOT] >= 0:
                _adopt(graph, slots, slot, trie.nodes[child, SLOT])
            child = trie.nodes[child, SIBLING]
        slot += 1
