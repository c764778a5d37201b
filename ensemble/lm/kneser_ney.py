"""Modified Kneser-Ney estimation of n-gram probabilities and back-off weights.

Label sequences are padded with `<s>` and `</s>`, which share index 0 with the blank: no transcript contains it. As the
first symbol of an n-gram, 0 is `<s>`; as its last symbol, it is `</s>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folds.store.ragged import offsets_of
from registry.errors import InputError

TokenSequences = Sequence[Sequence[int] | np.ndarray]

# The discount of an order whose counts of counts do not determine any, such as the unigrams of a small corpus.
_FALLBACK_DISCOUNT = 0.5


@dataclass(frozen=True, eq=False)
class NGrams:
    """The n-grams of one order, sorted by their tokens.

    `tokens` `(M, n)` int16; natural logarithms of p(last token | the others) and of the back-off weights, `(M,)`
    float32.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


def kneser_ney(lengths: np.ndarray, tokens: np.ndarray, classes: int, order: int) -> list[NGrams]:
    """Estimate the n-grams of orders 1 to `order` from sequences packed one after the other.

    Interpolated modified Kneser-Ney (Chen & Goodman 1999): an n-gram with count c is discounted by D1, D2 or, from
    c = 3 on, D3+. Below the highest order an n-gram's count is the number of distinct symbols that precede it, except
    after `<s>`, which nothing precedes. The unigrams are interpolated with the uniform distribution over `classes`.
    """
    counts = _kneser_ney_counts(lengths, tokens, classes, order)
    orders: list[NGrams] = []
    lower = np.full(classes, 1.0 / classes)  # p(last symbol | shorter history) of each n-gram: uniform for unigrams
    probs = lower
    for n, (keys, count) in enumerate(counts, start=1):
        discount = discounts(count)[np.minimum(count, 3).astype(np.int64)]
        history, history_of = np.unique(keys // classes, return_inverse=True)
        total = np.bincount(history_of, count)
        backoff = np.bincount(history_of, discount) / total
        if n > 1:
            # The suffix of an observed n-gram was observed too, so it is among the keys of the order below.
            lower = probs[np.searchsorted(counts[n - 2][0], keys % classes ** (n - 1))]
            orders[-1].backoffs[np.searchsorted(counts[n - 2][0], history)] = np.log(backoff)
        probs = (count - discount) / total[history_of] + backoff[history_of] * lower
        log_probs = np.log(probs).astype(np.float32)
        orders.append(NGrams(unpack_keys(keys, classes, n), log_probs, np.zeros_like(log_probs)))
    return orders


def discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of n-grams counted 0 times, once, twice, and 3 times or more: `(4,)`.

    With n_k the number of n-grams counted k times and Y = n1 / (n1 + 2 n2), D_k = k - (k + 1) Y n_(k+1) / n_k. If one
    is undefined or not positive, as in a small corpus, all are Y, the discount of unmodified Kneser-Ney; if n1 or n2 is
    0 as well, all are 0.5.

    >>> discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])).tolist()
    [0.0, 0.5, 1.25, 1.0]
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2):
        return np.array([0.0, *[_FALLBACK_DISCOUNT] * 3])
    y = n1 / (n1 + 2 * n2)
    modified = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 else 0.0])
    if n3 and n4 and (modified[1:] > 0).all():
        return modified
    return np.array([0.0, y, y, y])


def pack(sequences: TokenSequences, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths `(N,)` and all tokens one after the other, int64. Raises `InputError` for a token outside 1 … C-1."""
    lengths = np.array([len(tokens) for tokens in sequences], dtype=np.int64)
    packed = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in sequences] or [np.zeros(0, np.int64)])
    invalid = np.flatnonzero((packed < 1) | (packed >= classes))
    if len(invalid):
        sequence = int(np.searchsorted(np.cumsum(lengths), invalid[0], side="right"))
        raise InputError(f"sequence {sequence} has token {packed[invalid[0]]}; expected 1 to {classes - 1}")
    return lengths, packed


def unpack_keys(keys: np.ndarray, classes: int, n: int) -> np.ndarray:
    """The tokens `(M, n)` int16 of n-gram keys `(M,)`, numbers in base C."""
    return np.stack([keys // classes**place % classes for place in range(n - 1, -1, -1)], axis=1).astype(np.int16)


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
            # Unigrams of all classes, including those that never occur.
            all_counts = np.zeros(classes)
            all_counts[keys] = count
            keys, count = np.arange(classes), all_counts
        levels.append((keys, count))
    return levels[::-1]
