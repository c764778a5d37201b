"""Phone n-gram language model: interpolated Kneser-Ney, compiled to dense tables for the beam search.

Sentence ends are symbols of the model: a history starts with `<s>`, and every history has a probability for `</s>`.
Both share index 0 with the blank, which no transcript holds: as the oldest symbol of a history 0 is `<s>`, as a
prediction it is `</s>`. `[SIL]` is an ordinary label. ARPA files are `ensemble.arpa`'s; weights are tuned by
`ensemble.decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from registry.errors import InputError

_FALLBACK_DISCOUNT = (
    0.5  # where there are no counts of one or two to estimate it from, as among the unigrams of 40 phones
)


@dataclass(frozen=True, eq=False)
class NGrams:
    """The n-grams of one order: tokens `(M, n)`, log p(last | others) `(M,)` and the back-off weight's log `(M,)`."""

    tokens: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


@dataclass(frozen=True, eq=False)
class PhoneLM:
    """A back-off model as an automaton: one state a history that was seen, state 0 the start of an utterance.

    `log_probs (S, C)` holds natural logarithms, column 0 the end of the utterance; each row sums to 1 as probabilities.
    `next_state (S, C)` is the longest seen history after a token. `orders` are the n-grams both were made from.
    """

    orders: tuple[NGrams, ...]
    log_probs: np.ndarray
    next_state: np.ndarray

    @property
    def order(self) -> int:
        return len(self.orders)

    @property
    def classes(self) -> int:
        """Labels with the blank, C."""
        return self.log_probs.shape[1]

    def score(self, tokens: Sequence[int]) -> float:
        """log P(tokens, end of utterance), natural logarithm."""
        return float(self.scores([tokens])[0])

    def scores(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """`score` of many sequences: `(H,)` float64. Raises `InputError` for a token outside 1 … C-1."""
        lengths, tokens = _pack(sequences, self.classes)
        return sum_tokens(self.log_probs, self.next_state, tokens, lengths)

    def perplexity(self, sequences: Sequence[Sequence[int]]) -> float:
        """Per symbol, utterance ends counted."""
        return float(np.exp(-self.scores(sequences).sum() / sum(len(tokens) + 1 for tokens in sequences)))


def estimate(sequences: Sequence[Sequence[int]], classes: int, order: int = 4) -> PhoneLM:
    """Interpolated Kneser-Ney from label sequences (tokens 1 … classes-1), one discount D = n1 / (n1 + 2 n2) an order.

    Kneser & Ney 1995 as interpolated by Chen & Goodman 1999: below the highest order an n-gram counts the symbols
    that were seen before it, except after `<s>`, which nothing precedes. The unigrams are interpolated with the uniform
    distribution, so every label is possible everywhere.

    >>> lm = estimate([[1, 2], [1, 2, 2]], classes=4, order=2)
    >>> bool(lm.score([1, 2]) > lm.score([2, 1]) > lm.score([3, 3]))
    True

    Raises `InputError` for no sequences, an order below 1, or a token outside 1 … classes-1.
    """
    if order < 1 or classes < 2 or order * np.log2(classes) > 62:
        raise InputError(
            f"a language model of order {order} over {classes} classes; expected order 1 or more, 2 classes up"
        )
    if not len(sequences):
        raise InputError("no transcripts to estimate a language model from; expected at least one")
    lengths, tokens = _pack(sequences, classes)
    counts = _kneser_ney_counts(lengths, tokens, classes, order)
    orders: list[NGrams] = []
    lower = np.full(classes, 1.0 / classes)  # p(last symbol | shorter history) of each n-gram: to begin with, uniform
    for n, (keys, count) in enumerate(counts, start=1):
        ones, twos = (count == 1).sum(), (count == 2).sum()
        discount = ones / (ones + 2 * twos) if ones and twos else _FALLBACK_DISCOUNT
        history, which = np.unique(keys // classes, return_inverse=True)
        total = np.bincount(which, count)
        seen = np.bincount(which, count > 0)  # symbols the history was seen before
        backoff = discount * seen / total
        if n > 1:
            # The shorter n-gram of a seen one was seen too, so it is among the keys of the order below.
            lower = np.exp(orders[-1].log_probs)[np.searchsorted(counts[n - 2][0], keys % classes ** (n - 1))]
            orders[-1].backoffs[np.searchsorted(counts[n - 2][0], history)] = np.log(backoff)
        probs = np.maximum(count - discount, 0.0) / total[which] + backoff[which] * lower
        orders.append(NGrams(_unpack(keys, classes, n), np.log(probs), np.zeros(len(keys))))
    return compile_lm(orders, classes)


def estimate_folds(
    sequences: Sequence[Sequence[int]], folds: Sequence[int] | np.ndarray, classes: int, order: int = 4
) -> dict[int, PhoneLM]:
    """For each fold k a model of the sequences outside it, so that scoring fold k's utterances flatters nobody.

    `folds (N,)` is the fold of each sequence. A fold that holds every sequence raises `InputError`.
    """
    held_out = np.asarray(folds)
    if held_out.shape != (len(sequences),):
        raise InputError(f"folds are {held_out.shape}; expected one for each of the {len(sequences)} transcripts")
    return {
        int(fold): estimate([sequences[i] for i in np.flatnonzero(held_out != fold)], classes, order)
        for fold in np.unique(held_out)
    }


def _pack(sequences: Sequence[Sequence[int]], classes: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(tokens) for tokens in sequences], dtype=np.int64)
    packed = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in sequences] or [np.zeros(0, np.int64)])
    for wrong in np.flatnonzero((packed < 1) | (packed >= classes))[:1]:
        which = int(np.searchsorted(np.cumsum(lengths), wrong, side="right"))
        raise InputError(f"sequence {which} has token {packed[wrong]}; expected 1 to {classes - 1}")
    return lengths, packed


def _unpack(keys: np.ndarray, classes: int, n: int) -> np.ndarray:
    """n-gram keys, numbers in base C, as tokens `(M, n)`."""
    return np.stack([keys // classes**place % classes for place in range(n - 1, -1, -1)], axis=1).astype(np.int32)


def _kneser_ney_counts(lengths, tokens, classes: int, order: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per order the sorted keys of the n-grams and their counts, below the top order of preceding symbols."""
    ends = np.cumsum(lengths + 2)
    stream = np.zeros(int(ends[-1]), dtype=np.int64)  # <s> tokens </s> <s> tokens </s> …
    inside = np.ones(len(stream), dtype=bool)
    inside[ends - 1] = inside[ends - lengths - 2] = False
    stream[inside] = tokens
    first = np.repeat(ends - lengths - 2, lengths + 2)
    position = np.arange(len(stream)) - first
    levels = []
    for n in range(order, 0, -1):
        # Windows end at a token or </s>, and do not reach back beyond their own <s>.
        last = np.flatnonzero(position >= max(1, n - 1))
        keys = sum(stream[last - back] * classes**back for back in range(n))
        from_start = position[last] == n - 1
        if n == order:
            keys, count = np.unique(keys, return_counts=True)
        else:
            longer = levels[-1][0] % classes**n
            after_any, preceding = np.unique(longer, return_counts=True)
            after_start, occurrences = np.unique(keys[from_start], return_counts=True)
            keys = np.concatenate([after_any, after_start])
            count = np.concatenate([preceding, occurrences])
            order_of_keys = np.argsort(keys, kind="stable")
            keys, count = keys[order_of_keys], count[order_of_keys]
        if n == 1:
            every = np.zeros(classes)
            every[keys] = count
            keys, count = np.arange(classes), every
        levels.append((keys, count))
    return levels[::-1]


def compile_lm(orders: Sequence[NGrams], classes: int) -> PhoneLM:
    """The automaton of back-off n-grams: rows are filled from the shorter history's row, scaled, then the n-grams' own.

    Raises `InputError` where a label has no unigram.
    """
    keys = [grams.tokens.astype(np.int64) @ classes ** np.arange(n)[::-1] for n, grams in enumerate(orders, start=1)]
    missing = np.setdiff1d(np.arange(classes), keys[0])
    if len(missing):
        raise InputError(
            f"the language model has no unigram for label {missing[0]}; expected all {classes - 1} and </s>"
        )
    rows = np.full((2, classes), -np.inf)
    rows[:, keys[0]] = orders[0].log_probs
    # States: 0 is <s>, 1 the empty history, then the histories of length 1, 2, …, each length sorted by key.
    following = np.ones((2, classes), dtype=np.int32)
    levels = [(np.array([0]), np.array([1]))]  # per length: the histories' keys, their states
    for n in range(1, len(orders)):
        histories = np.unique(np.append(keys[n] // classes, 0) if n == 1 else keys[n] // classes)
        shorter = _longest_state(levels, histories, classes, n - 1)
        states = len(rows) + np.arange(len(histories))
        if n == 1:
            states = np.concatenate([[0], states[:-1]])  # <s> has its place already
        # A history is where its own beginning leads by its last token; longer ones inherit that from their suffix.
        prefix_keys, prefix_states = levels[n - 1]
        place = np.searchsorted(prefix_keys, histories // classes).clip(max=len(prefix_keys) - 1)
        reached = (prefix_keys[place] == histories // classes) & (histories % classes > 0)
        following[prefix_states[place[reached]], (histories % classes)[reached]] = states[reached]
        backoffs = np.zeros(len(histories))
        known = np.isin(histories, keys[n - 1])
        by_key = np.argsort(keys[n - 1])
        where = by_key[np.searchsorted(keys[n - 1], histories[known], sorter=by_key)]
        backoffs[known] = orders[n - 1].backoffs[where]
        grown = max(len(rows), int(states.max(initial=0)) + 1)
        rows = np.concatenate([rows, np.empty((grown - len(rows), classes))])
        following = np.concatenate([following, np.empty((grown - len(following), classes), np.int32)])
        rows[states] = rows[shorter] + backoffs[:, None]
        following[states] = following[shorter]
        rows[states[np.searchsorted(histories, keys[n] // classes)], keys[n] % classes] = orders[n].log_probs
        levels.append((histories, states))
    following[:, 0] = 0
    return PhoneLM(tuple(orders), rows.astype(np.float32), following)


def _longest_state(levels, histories: np.ndarray, classes: int, length: int) -> np.ndarray:
    """The state of each history's longest suffix of at most `length` tokens that is a state."""
    state = np.ones(len(histories), dtype=np.int64)
    for n in range(length + 1):
        keys, states = levels[n]
        if not len(keys):
            continue
        suffix = histories % classes**n
        place = np.searchsorted(keys, suffix).clip(max=len(keys) - 1)
        found = keys[place] == suffix
        state[found] = states[place[found]]
    return state


@njit(nogil=True, cache=True)
def sum_tokens(log_probs, next_state, tokens, lengths):
    """Log-probability of packed sequences, their ends included: `(H,)` float64."""
    sums = np.zeros(len(lengths))
    first = 0
    for h in range(len(lengths)):
        state = 0
        for k in range(first, first + lengths[h]):
            sums[h] += log_probs[state, tokens[k]]
            state = next_state[state, tokens[k]]
        sums[h] += log_probs[state, 0]
        first += lengths[h]
    return sums
