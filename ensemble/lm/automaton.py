"""A back-off n-gram model as an automaton in one flat array, for compiled code.

A state is a history: the longest suffix of the tokens so far that an n-gram extends or that has a back-off weight.
Short histories have a dense row of all tokens; longer ones list only the tokens that were observed after them, and back
off for the others. So memory is proportional to the number of n-grams: an order-7 model of 28,000 utterances has
400,000 histories, most of them with one or two successors, and dense rows for all would take 41 × 12 bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from ensemble.lm.kneser_ney import NGrams
from folds.store.ragged import offsets_of
from registry.errors import InputError

# Longer histories get dense rows too if the rows of all histories up to their length fit into this many bytes. 85,000
# histories of up to 4 phones do, so an order-5 model never has to search for a token.
_DENSE_BYTES = 48 << 20

_LOG_ZERO = np.float32(-1e30)

START = 1  # the state at the start of an utterance, the history `<s>`

CELL = np.dtype([("token", np.int32), ("log_prob", np.float32), ("next", np.int32)])


class Automaton(NamedTuple):
    """`cells` `(M,)`, in which a state is an index; states below `dense_end` are dense.

    A dense state s stores the log-probability of token c (0: the end of the utterance) and the state after it in cell
    s + c. A sparse state stores in cell s the number of its successors (`token`), its log back-off weight and the state
    that it backs off to, followed by one cell per successor, ascending by token. Cell s - 1 holds an upper bound of the
    log-probabilities of all tokens from 1 on.
    """

    cells: np.ndarray
    dense_end: int


@njit(nogil=True, cache=True, error_model="numpy")
def advance(cells, dense_end, state, token):
    """The log-probability of `token` (0: the end of the utterance) in `state`, and the state after it."""
    log_prob = np.float32(0.0)
    while state >= dense_end:
        low, end = state + 1, state + 1 + cells[state].token
        high = end
        while low < high:
            middle = (low + high) // 2
            if cells[middle].token < token:
                low = middle + 1
            else:
                high = middle
        if low < end and cells[low].token == token:
            return log_prob + cells[low].log_prob, cells[low].next
        log_prob += cells[state].log_prob
        state = cells[state].next
    return log_prob + cells[state + token].log_prob, cells[state + token].next


@njit(nogil=True, cache=True, error_model="numpy")
def sum_tokens(automaton, tokens, lengths):
    """Log-probabilities `(H,)` float64 of sequences packed one after the other, including their ends."""
    cells, dense_end = automaton
    sums = np.zeros(len(lengths))
    first = 0
    for h in range(len(lengths)):
        state = START
        for k in range(first, first + lengths[h]):
            log_prob, state = advance(cells, dense_end, state, tokens[k])
            sums[h] += log_prob
        sums[h] += advance(cells, dense_end, state, 0)[0]
        first += lengths[h]
    return sums


class Histories(NamedTuple):
    """The histories of one length, sorted, and the n-grams that extend them by a token."""

    keys: np.ndarray  # their tokens as numbers in base C
    states: np.ndarray
    backoffs: np.ndarray
    backoff_state: np.ndarray
    successor_counts: np.ndarray
    dense: bool


def compile_automaton(orders: Sequence[NGrams], classes: int) -> Automaton:
    """Compile back-off n-grams, shortest first; the first n - 1 tokens of every n-gram must be an n-gram too.

    Raises `InputError` if a label has no unigram.
    """
    keys = [_keys_of(grams.tokens, classes) for grams in orders]
    missing = np.setdiff1d(np.arange(classes), keys[0])
    if len(missing):
        raise InputError(
            f"the language model has no unigram for label {missing[0]}; expected all {classes - 1} and </s>"
        )
    levels = _number_histories(orders, keys, classes)
    size = max(int(own.states[-1] + (classes if own.dense else 1 + own.successor_counts[-1])) for own in levels)
    cells = np.zeros(size, CELL)
    sparse = [int(level.states[0]) for level in levels if not level.dense]
    for length, level in enumerate(levels):
        if length < len(orders):
            grams, tokens = orders[length], keys[length] % classes
            # The state after an n-gram is its longest suffix that is a history. Longer histories are left out, because
            # `<s>`, digit 0, does not change a key.
            successors = np.empty(len(tokens), CELL)
            successors["token"], successors["log_prob"] = tokens, grams.log_probs
            successors["next"] = _longest_state(levels[: min(length + 2, len(orders))], keys[length], classes)
        else:
            successors = np.zeros(0, CELL)
        (write_dense if level.dense else write_sparse)(cells, level, successors, classes)
    return Automaton(cells, sparse[0] if sparse else size)


def write_dense(cells: np.ndarray, level: Histories, successors: np.ndarray, classes: int) -> None:
    """Write the rows of histories: the rows of their longest known suffixes, scaled by the back-off weight, overwritten
    with the `successors`."""
    columns = np.arange(classes)
    rows = cells[level.backoff_state[:, None] + columns]
    rows["log_prob"] += level.backoffs[:, None]
    rows[np.repeat(np.arange(len(rows)), level.successor_counts), successors["token"]] = successors
    cells[level.states[:, None] + columns] = rows
    cells["log_prob"][level.states - 1] = rows["log_prob"][:, 1:].max(axis=1, initial=_LOG_ZERO)


def write_sparse(cells: np.ndarray, level: Histories, successors: np.ndarray, classes: int) -> None:
    """Write histories that list their `successors`."""
    counts, states = level.successor_counts, level.states
    cells["token"][states], cells["log_prob"][states], cells["next"][states] = (
        counts,
        level.backoffs,
        level.backoff_state,
    )
    offsets = offsets_of(counts)
    cells[np.repeat(states + 1 - offsets[:-1], counts) + np.arange(offsets[-1])] = successors
    best = level.backoffs + cells["log_prob"][level.backoff_state - 1]
    labels = successors["token"] > 0
    np.maximum.at(best, np.repeat(np.arange(len(counts)), counts)[labels], successors["log_prob"][labels])
    cells["log_prob"][states - 1] = best


def uniform_automaton(classes: int) -> Automaton:
    """A model in which every class has the same probability after every history."""
    log_probs = np.full(classes, -np.log(classes), np.float32)
    unigrams = NGrams(np.arange(classes, dtype=np.int16)[:, None], log_probs, np.zeros_like(log_probs))
    return compile_automaton([unigrams], classes)


def _keys_of(tokens: np.ndarray, classes: int) -> np.ndarray:
    """n-grams `(M, n)` as numbers in base C, `(M,)` int64."""
    return tokens.astype(np.int64) @ classes ** np.arange(tokens.shape[1])[::-1]


def _number_histories(orders: Sequence[NGrams], keys: Sequence[np.ndarray], classes: int) -> list[Histories]:
    """The histories of each length from 0: the prefixes of n-grams, and n-grams that have a back-off weight.

    States ascend by length and then by tokens, except that `<s>`, the first of length 1, precedes the empty history.
    """
    row = classes + 1
    empty = np.array([START + row])
    levels = [Histories(np.array([0]), empty, np.zeros(1, np.float32), empty, np.array([classes]), True)]
    free = 2 * row
    for length in range(1, max(2, len(orders))):
        own, backoffs = keys[length - 1], orders[length - 1].backoffs
        # Label 0 is `</s>` at the end of an n-gram, which nothing follows; alone it is `<s>`, the state `START`.
        start = np.zeros(int(length == 1), np.int64)
        longer = keys[length] // classes if length < len(orders) else np.zeros(0, np.int64)
        histories = np.unique(np.concatenate([start, own[(backoffs != 0) & (own % classes > 0)], longer]))
        if not len(histories):
            break
        counts = np.bincount(np.searchsorted(histories, longer), minlength=len(histories))
        dense = length == 1 or (levels[-1].dense and (free + row * len(histories)) * CELL.itemsize <= _DENSE_BYTES)
        sizes = np.full(len(histories), row) if dense else counts + 2
        sizes[: len(start)] = 0  # `<s>` has its cells already
        offsets = free + offsets_of(sizes)
        states = offsets[:-1] + 1
        states[: len(start)] = START
        backoffs = backoffs[np.searchsorted(own, histories)]
        levels.append(
            Histories(histories, states, backoffs, _longest_state(levels, histories, classes), counts, dense)
        )
        free = int(offsets[-1])
    return levels


def _longest_state(levels: Sequence[Histories], keys: np.ndarray, classes: int) -> np.ndarray:
    """The state `(M,)` of the longest suffix among the histories of `levels`, for tokens given as `keys` `(M,)`."""
    state = np.full(len(keys), levels[0].states[0])
    for length, level in enumerate(levels):
        suffix = keys % classes**length
        place = np.searchsorted(level.keys, suffix).clip(max=len(level.keys) - 1)
        known = level.keys[place] == suffix
        state[known] = level.states[place[known]]
    return state
