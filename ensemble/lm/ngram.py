"""Phone n-gram language models: interpolated Kneser-Ney, compiled to dense tables for the beam search.

Sentence ends are symbols of the model: a history starts with `<s>`, and every history has a probability for `</s>`.
Both share index 0 with the blank, which no transcript contains: as the oldest symbol of a history 0 is `<s>`, as a
prediction it is `</s>`. `[SIL]` is an ordinary label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from folds.store.ragged import offsets_of
from registry.errors import InputError

TokenSequences = Sequence[Sequence[int] | np.ndarray]

# The discount where no n-gram was counted once or twice to estimate it from, as among the unigrams of 40 phones.
_FALLBACK_DISCOUNT = 0.5


@dataclass(frozen=True, eq=False)
class NGrams:
    """The n-grams of one order.

    `tokens` `(M, n)`, natural logarithms of p(last token | the others) `(M,)` and of the back-off weights `(M,)`.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


@dataclass(frozen=True, eq=False)
class PhoneLM:
    """A back-off model as an automaton: one state per history in the n-grams; state 0 is the start of an utterance.

    `log_probs` `(S, C)` are natural logarithms, column 0 is the end of the utterance, and the probabilities of a row
    sum to 1. `next_state` `(S, C)` is the longest known history after a token. `orders` are the n-grams, shortest
    first, that the tables were compiled from.
    """

    orders: tuple[NGrams, ...]
    log_probs: np.ndarray
    next_state: np.ndarray

    @property
    def order(self) -> int:
        """The longest n of its n-grams."""
        return len(self.orders)

    @property
    def classes(self) -> int:
        """Number of classes C, the blank included."""
        return self.log_probs.shape[1]

    def score(self, tokens: Sequence[int]) -> float:
        """log P(tokens, end of utterance), natural logarithm."""
        return float(self.scores([tokens])[0])

    def scores(self, sequences: TokenSequences) -> np.ndarray:
        """`score` of many sequences: `(H,)` float64. Raises `InputError` for a token outside 1 … C-1."""
        lengths, tokens = _pack(sequences, self.classes)
        return sum_tokens(self.log_probs, self.next_state, tokens, lengths)

    def perplexity(self, sequences: TokenSequences) -> float:
        """Perplexity per symbol, where the end of each utterance counts as a symbol."""
        return float(np.exp(-self.scores(sequences).sum() / sum(len(tokens) + 1 for tokens in sequences)))


def estimate(sequences: TokenSequences, classes: int, order: int = 4) -> PhoneLM:
    """Estimate an interpolated Kneser-Ney model from label sequences (tokens 1 … classes-1).

    Kneser & Ney 1995 as interpolated by Chen & Goodman 1999, with one discount D = n1 / (n1 + 2 n2) per order. Below
    the highest order an n-gram's count is the number of distinct symbols that precede it, except after `<s>`, which
    nothing precedes. The unigrams are interpolated with the uniform distribution, so every label is possible after
    every history.

    >>> lm = estimate([[1, 2], [1, 2, 2]], classes=4, order=2)
    >>> round(lm.score([1, 2]), 2), round(lm.score([2, 1]), 2)
    (-0.54, -11.43)

    Raises `InputError` for no sequences, an order below 1, or a token outside 1 … classes-1.
    """
    if order < 1 or classes < 2 or order * np.log2(classes) > 62:
        raise InputError(
            f"cannot estimate a language model of order {order} over {classes} classes: "
            "expected an order of at least 1, at least 2 classes, and classes ** order below 2 ** 62"
        )
    if not len(sequences):
        raise InputError("no transcripts to estimate a language model from; expected at least one")
    lengths, tokens = _pack(sequences, classes)
    counts = _kneser_ney_counts(lengths, tokens, classes, order)
    orders: list[NGrams] = []
    lower = np.full(classes, 1.0 / classes)  # p(last symbol | shorter history) of each n-gram: uniform for unigrams
    for n, (keys, count) in enumerate(counts, start=1):
        ones, twos = (count == 1).sum(), (count == 2).sum()
        discount = ones / (ones + 2 * twos) if ones and twos else _FALLBACK_DISCOUNT
        history, history_of = np.unique(keys // classes, return_inverse=True)
        total = np.bincount(history_of, count)
        continuations = np.bincount(history_of, count > 0)  # distinct symbols that follow the history
        backoff = discount * continuations / total
        if n > 1:
            # The suffix of an observed n-gram was observed too, so it is among the keys of the order below.
            lower = np.exp(orders[-1].log_probs)[np.searchsorted(counts[n - 2][0], keys % classes ** (n - 1))]
            orders[-1].backoffs[np.searchsorted(counts[n - 2][0], history)] = np.log(backoff)
        probs = np.maximum(count - discount, 0.0) / total[history_of] + backoff[history_of] * lower
        orders.append(NGrams(_unpack(keys, classes, n), np.log(probs), np.zeros(len(keys))))
    return compile_lm(orders, classes)


def estimate_folds(
    sequences: TokenSequences,
    folds: Sequence[int] | np.ndarray,
    classes: int,
    order: int = 4,
) -> dict[int, PhoneLM]:
    """For each fold k, estimate a model of the sequences outside it, so that it scores fold k's utterances unseen.

    `folds` `(N,)` is the fold of each sequence. Raises `InputError` where one fold holds every sequence.
    """
    fold_of = np.asarray(folds)
    if fold_of.shape != (len(sequences),):
        raise InputError(f"folds are {fold_of.shape}; expected one for each of the {len(sequences)} transcripts")
    return {
        int(fold): estimate([sequences[i] for i in np.flatnonzero(fold_of != fold).tolist()], classes, order)
        for fold in np.unique(fold_of)
    }


def _pack(sequences: TokenSequences, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths `(N,)` and all tokens one after the other, int64. Raises `InputError` for a token outside 1 … C-1."""
    lengths = np.array([len(tokens) for tokens in sequences], dtype=np.int64)
    packed = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in sequences] or [np.zeros(0, np.int64)])
    invalid = np.flatnonzero((packed < 1) | (packed >= classes))
    if len(invalid):
        sequence = int(np.searchsorted(np.cumsum(lengths), invalid[0], side="right"))
        raise InputError(f"sequence {sequence} has token {packed[invalid[0]]}; expected 1 to {classes - 1}")
    return lengths, packed


def _unpack(keys: np.ndarray, classes: int, n: int) -> np.ndarray:
    """n-gram keys, numbers in base C, as tokens `(M, n)`."""
    return np.stack([keys // classes**place % classes for place in range(n - 1, -1, -1)], axis=1).astype(np.int32)


def _kneser_ney_counts(
    lengths: np.ndarray, tokens: np.ndarray, classes: int, order: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per order, from 1: the sorted keys of the n-grams and their Kneser-Ney counts."""
    starts = offsets_of(lengths + 2)
    text = np.zeros(int(starts[-1]), dtype=np.int64)  # <s> tokens </s> <s> tokens </s> …
    is_token = np.ones(len(text), dtype=bool)
    is_token[starts[:-1]] = is_token[starts[1:] - 1] = False
    text[is_token] = tokens
    position = np.arange(len(text)) - np.repeat(starts[:-1], lengths + 2)
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    count: np.ndarray
    for n in range(order, 0, -1):
        # An n-gram ends at a token or </s>, and does not reach back beyond its own <s>.
        last = np.flatnonzero(position >= max(1, n - 1))
        keys = sum((text[last - back] * classes**back for back in range(n)), np.zeros(len(last), np.int64))
        if n == order:
            keys, count = np.unique(keys, return_counts=True)
        else:
            longer = levels[-1][0] % classes**n
            after_any, preceding = np.unique(longer, return_counts=True)
            after_start, occurrences = np.unique(keys[position[last] == n - 1], return_counts=True)
            keys = np.concatenate([after_any, after_start])
            count = np.concatenate([preceding, occurrences])
            by_key = np.argsort(keys, kind="stable")
            keys, count = keys[by_key], count[by_key]
        if n == 1:
            # Unigrams of all classes, those without an occurrence too.
            all_counts = np.zeros(classes)
            all_counts[keys] = count
            keys, count = np.arange(classes), all_counts
        levels.append((keys, count))
    return levels[::-1]


def compile_lm(orders: Sequence[NGrams], classes: int) -> PhoneLM:
    """Compile back-off n-grams, shortest first, to the automaton of a `PhoneLM`.

    The row of a history is the row of its longest known suffix, scaled by the back-off weight, with the n-grams of the
    history written over it. Raises `InputError` where a label has no unigram.
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
    next_state = np.ones((2, classes), dtype=np.int32)
    levels = [(np.array([0]), np.array([1]))]  # per length: the histories' keys, their states
    for n in range(1, len(orders)):
        histories = np.unique(np.append(keys[n] // classes, 0) if n == 1 else keys[n] // classes)
        suffix = _longest_state(levels, histories, classes, n - 1)
        states = len(rows) + np.arange(len(histories))
        if n == 1:
            states = np.concatenate([[0], states[:-1]])  # <s> has its state already
        # The state of a history without its last token leads to it by that token; longer states copy the transition.
        prefix_keys, prefix_states = levels[n - 1]
        prefix = np.searchsorted(prefix_keys, histories // classes).clip(max=len(prefix_keys) - 1)
        reached = (prefix_keys[prefix] == histories // classes) & (histories % classes > 0)
        next_state[prefix_states[prefix[reached]], (histories % classes)[reached]] = states[reached]
        row_count = max(len(rows), int(states.max(initial=0)) + 1)
        rows = np.concatenate([rows, np.empty((row_count - len(rows), classes))])
        next_state = np.concatenate([next_state, np.empty((row_count - len(next_state), classes), np.int32)])
        rows[states] = rows[suffix] + _backoffs_of(histories, keys[n - 1], orders[n - 1].backoffs)[:, None]
        next_state[states] = next_state[suffix]
        rows[states[np.searchsorted(histories, keys[n] // classes)], keys[n] % classes] = orders[n].log_probs
        levels.append((histories, states))
    next_state[:, 0] = 0
    return PhoneLM(tuple(orders), rows.astype(np.float32), next_state)


def _backoffs_of(histories: np.ndarray, keys: np.ndarray, backoffs: np.ndarray) -> np.ndarray:
    """The back-off weight's logarithm of each history, 0 where the history is not among the n-grams `keys`."""
    values = np.zeros(len(histories))
    known = np.isin(histories, keys)
    by_key = np.argsort(keys)
    values[known] = backoffs[by_key[np.searchsorted(keys, histories[known], sorter=by_key)]]
    return values


def _longest_state(
    levels: Sequence[tuple[np.ndarray, np.ndarray]], histories: np.ndarray, classes: int, length: int
) -> np.ndarray:
    """The state of each history's longest suffix of at most `length` tokens that is a state."""
    state = np.ones(len(histories), dtype=np.int64)
    for n in range(length + 1):
        keys, states = levels[n]
        if not len(keys):
            continue
        suffix = histories % classes**n
        place = np.searchsorted(keys, suffix).clip(max=len(keys) - 1)
        known = keys[place] == suffix
        state[known] = states[place[known]]
    return state


@njit(nogil=True, cache=True)
def sum_tokens(log_probs, next_state, tokens, lengths):
    """Log-probabilities `(H,)` float64 of sequences packed one after the other, their ends included."""
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
