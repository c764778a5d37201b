"""The state that the word search keeps between frames: word sequences, and prefixes with a hash table to find them.

All functions are compiled into `ensemble.words.kernel.search`, whose numba cache does not notice changes to this file:
remove `__pycache__` after editing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.lm.automaton import START, advance
from ensemble.words.trie import LexiconTree


class WordGraph(NamedTuple):
    """The search space: the lexicon's words, and their weighted language model, an `Automaton`."""

    trie: LexiconTree
    ahead: np.ndarray  # (nodes,) the look-ahead factor of each node
    cells: np.ndarray
    dense_end: int
    silence: int  # the class between words, 0 for none
    lm_weight: float
    bonus: float  # per word


class Ways(NamedTuple):
    """How prefixes can continue: within their word, or after each word that ends at their node."""

    source: np.ndarray  # the prefix's place in the beam
    sequence: np.ndarray  # the resulting word sequence
    start: np.ndarray  # the node whose children are entered
    factor: np.ndarray  # float64, multiplies the mass
    used: np.ndarray  # (1,) how many there are


class Table(NamedTuple):
    """A hash table with linear probing; its size is a power of 2, and at most half of it is in use."""

    keys: np.ndarray  # int64, -1 where a place is free
    values: np.ndarray  # int32


class Sequences(NamedTuple):
    """All word sequences encountered so far; 0 is the empty one."""

    parent: np.ndarray  # the sequence without its last word
    word: np.ndarray  # its last word
    state: np.ndarray  # language model state
    lm: np.ndarray  # float64 sum of the words' log-probabilities
    length: np.ndarray  # number of words
    table: Table  # sequences by parent and last word
    used: np.ndarray  # (1,) how many there are


class Prefixes(NamedTuple):
    """Word sequences, each with a node of the tree, and their probability masses."""

    sequence: np.ndarray
    node: np.ndarray
    blank: np.ndarray  # float64 mass of the paths that end in a blank
    label: np.ndarray  # mass of those that end in the node's token
    used: np.ndarray  # (1,) how many there are


class WordCandidates(NamedTuple):
    """The prefixes of the next frame, which compete for the beam."""

    prefixes: Prefixes
    key: np.ndarray  # scores
    table: Table  # prefixes by sequence and node
    place: np.ndarray  # where each prefix is in the table


@njit(inline="always")
def find(keys, key):
    """The position of `key` in a hash table, or the free one (-1) where it belongs."""
    size = len(keys)
    code = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64((code ^ (code >> np.uint64(29))) & np.uint64(size - 1))
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & (size - 1)
    return place


@njit
def _empty_table(size):
    return Table(np.full(size, -1), np.empty(size, np.int32))


@njit
def _doubled_table(table):
    """A table of twice the size with the same entries."""
    new = _empty_table(2 * len(table.keys))
    for place in range(len(table.keys)):
        if table.keys[place] != -1:
            new_place = find(new.keys, table.keys[place])
            new.keys[new_place], new.values[new_place] = table.keys[place], table.values[place]
    return new


@njit
def _doubled(values):
    more = np.empty(2 * len(values), values.dtype)
    more[: len(values)] = values
    return more


@njit
def first_sequences():
    """Only the empty sequence."""
    capacity = 2048
    parent, word = np.full(capacity, -1, np.int32), np.zeros(capacity, np.int32)
    state, lm, length = np.full(capacity, START, np.int32), np.zeros(capacity), np.zeros(capacity, np.int32)
    return Sequences(parent, word, state, lm, length, _empty_table(2 * capacity), np.array([1]))


@njit
def more_sequences(sequences, needed):
    """The same sequences with room for `needed`."""
    parent, word, state, lm, length, table, used = sequences
    while needed > len(parent):
        parent, word, state = _doubled(parent), _doubled(word), _doubled(state)
        lm, length, table = _doubled(lm), _doubled(length), _doubled_table(table)
    return Sequences(parent, word, state, lm, length, table, used)


# Inlined, because it is called for each word: see `ensemble.words.kernel` about calls.
@njit(error_model="numpy", forceinline=True)
def next_sequence(graph, sequences, parent, word):
    """The sequence `parent` + `word`, created if there is none yet; there must be room for it."""
    keys, known = sequences.table
    vocabulary = np.int64(graph.dense_end // 2 - 1)  # V + 1: an automaton of words has two dense rows
    key = parent * vocabulary + word
    place = find(keys, key)
    if keys[place] == -1:
        new = sequences.used[0]
        log_prob, sequences.state[new] = advance(graph.cells, graph.dense_end, sequences.state[parent], word)
        sequences.parent[new], sequences.word[new] = parent, word
        sequences.lm[new], sequences.length[new] = sequences.lm[parent] + log_prob, sequences.length[parent] + 1
        keys[place], known[place] = key, new
        sequences.used[0] += 1
    return known[place]


@njit
def first_beam(width):
    """A beam that holds the empty prefix, with room for `width` prefixes."""
    beam = _empty_prefixes(width)
    beam.sequence[0], beam.node[0], beam.blank[0], beam.label[0], beam.used[0] = 0, 0, 1.0, 0.0, 1
    return beam


@njit
def _empty_prefixes(capacity):
    sequence, node = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    return Prefixes(sequence, node, np.empty(capacity), np.empty(capacity), np.zeros(1, np.int64))


@njit
def no_ways(capacity):
    """An empty list of ways with this capacity."""
    source, sequence, start = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    return Ways(source, sequence, start, np.empty(capacity), np.zeros(1, np.int64))


@njit
def no_candidates(width):
    """An empty list of candidates, with an initial capacity of 4 per prefix of a beam of `width`."""
    capacity = 512
    while capacity < 4 * width:
        capacity *= 2
    table, place = _empty_table(2 * capacity), np.empty(capacity, np.int64)
    return WordCandidates(_empty_prefixes(capacity), np.empty(capacity), table, place)


@njit
def more_candidates(candidates, needed):
    """The same candidates with room for `needed`."""
    (sequence, node, blank, label, used), key, table, place = candidates
    while needed > len(key):
        sequence, node, blank, label = _doubled(sequence), _doubled(node), _doubled(blank), _doubled(label)
        key, table, place = _doubled(key), _doubled_table(table), _doubled(place)
    for at in np.flatnonzero(table.keys != -1):
        place[table.values[at]] = at
    return WordCandidates(Prefixes(sequence, node, blank, label, used), key, table, place)
