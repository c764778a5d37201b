"""Proposals: the hypotheses that models propose for each utterance, stored compactly, and merged into pools.

A model's N-best lists are kept until the last pool is built, since every choice of members has its own pool. The
hypotheses of a list are nearly equal, so they are sorted by tokens and each is stored as its difference from the one
before it: about a sixth of its tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from ensemble.hypotheses.nbest import NBest
from ensemble.threads import map_threads
from folds.store.ragged import Ragged, offsets_of
from registry.console import track


@dataclass(frozen=True, eq=False)
class Proposals:
    """The hypotheses that one model proposes for N utterances, H in total, sorted by tokens within an utterance."""

    offsets: np.ndarray
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, (N + 1,)."""
    shared: np.ndarray
    """Length of the prefix that a hypothesis shares with the one before it, (H,) int32; 0 for an utterance's first."""
    suffixes: Ragged
    """The remaining tokens of each hypothesis, int16."""
    posteriors: np.ndarray
    """Each hypothesis's posteriors, normalised within each list and summed over the model's lists, (H,) float32."""

    @staticmethod
    def of(lists: Sequence[NBest]) -> Proposals:
        """The union of several N-best lists of one model, such as those without and with a language model."""

        def unite(row: int) -> tuple[np.ndarray, Ragged, np.ndarray]:
            spans = [(nbest.offsets[row], nbest.offsets[row + 1]) for nbest in lists]
            pairs = list(zip(lists, spans, strict=True))
            tokens = Ragged.concatenate([nbest.tokens.range(first, last) for nbest, (first, last) in pairs])
            masses = [_normalised(nbest.scores[first:last]) for nbest, (first, last) in pairs]
            kept, total = _join(tokens.values, tokens.offsets, np.concatenate(masses), len(tokens))
            shared, suffixes, suffix_offsets = _compress(tokens.values, tokens.offsets, kept)
            return shared, Ragged(suffixes, suffix_offsets), total

        parts = list(map_threads(unite, range(len(lists[0]))))
        shared, suffixes, totals = zip(*parts, strict=True)
        return Proposals(
            offsets_of(map(len, shared)),
            np.concatenate(shared),
            Ragged.concatenate(suffixes),
            np.concatenate(totals).astype(np.float32),
        )


def join_proposals(
    proposals: Sequence[Proposals], size: int, weights: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, Ragged]:
    """The `size` hypotheses of each utterance with the largest weighted sum of posteriors, sorted by tokens.

    `weights` has one entry for each of the `proposals`. Returns offsets (N + 1,) and the hypotheses. Posteriors are
    normalised within each list, so a hypothesis of which a single model is certain stays in the union.
    """

    def join(row: int) -> Ragged:
        spans = [(of_model.offsets[row], of_model.offsets[row + 1]) for of_model in proposals]
        pairs = list(zip(proposals, spans, strict=True))
        # A list's first hypothesis shares nothing, so concatenated lists can be read as one.
        shared = np.concatenate([of_model.shared[first:last] for of_model, (first, last) in pairs])
        suffixes = Ragged.concatenate([of_model.suffixes.range(first, last) for of_model, (first, last) in pairs])
        parts = [of_model.posteriors[first:last] for of_model, (first, last) in pairs]
        mass = np.concatenate([weight * part.astype(np.float64) for weight, part in zip(weights, parts, strict=True)])
        tokens = Ragged(*_expand(shared, suffixes.lengths, suffixes.values))
        kept, _ = _join(tokens.values, tokens.offsets, mass, size)
        return tokens.take(kept)

    utterances = range(len(proposals[0].offsets) - 1)
    pools = list(track(map_threads(join, utterances), "joining N-best lists", len(utterances)))
    return offsets_of(map(len, pools)), Ragged.concatenate(pools)


def sort_lists(nbest: NBest) -> np.ndarray:
    """Indices (H,) that sort each utterance's hypotheses by tokens."""
    order = np.arange(nbest.offsets[-1])
    for first, last in itertools.pairwise(nbest.offsets.tolist()):
        order[first:last] = _sort(nbest.tokens.values, nbest.tokens.offsets, order[first:last])
    return order


def find_hypotheses(offsets: np.ndarray, tokens: Ragged, others: np.ndarray, other_tokens: Ragged) -> np.ndarray:
    """Index (H,) of each hypothesis among those of the same utterance in another pool, -1 if it is not there.

    `offsets` and `others` (N + 1,) are the two pools' offsets; hypotheses are sorted by tokens within an utterance.
    """
    return _find(offsets, tokens.values, tokens.offsets, others, other_tokens.values, other_tokens.offsets)


def _normalised(scores: np.ndarray) -> np.ndarray:
    likelihoods = np.exp(scores - scores.max())
    return likelihoods / likelihoods.sum()


@njit(nogil=True, cache=True)
def _join(tokens, offsets, mass, size):
    """The `size` distinct hypotheses with the largest total mass: the index of each one's first copy, and the total.

    They are sorted by tokens. For equal masses, the first proposed are kept.
    """
    count = len(offsets) - 1
    slots = 2
    while slots < 2 * count:
        slots *= 2
    first_copy = np.full(slots, -1, np.int64)  # a hash table with linear probing
    total = np.zeros(count)
    distinct = np.empty(count, np.int64)
    found = 0
    for h in range(count):
        code = np.uint64(14695981039346656037)  # FNV-1a, a token at a time
        for k in range(offsets[h], offsets[h + 1]):
            code = (code ^ np.uint64(tokens[k])) * np.uint64(1099511628211)
        place = np.int64((code ^ (code >> np.uint64(32))) & np.uint64(slots - 1))
        while first_copy[place] >= 0 and _compare(tokens, offsets, first_copy[place], tokens, offsets, h) != 0:
            place = (place + 1) & (slots - 1)
        if first_copy[place] < 0:
            first_copy[place] = h
            distinct[found] = h
            found += 1
        total[first_copy[place]] += mass[h]
    distinct = distinct[:found]
    if found > size:
        distinct = distinct[np.argsort(-total[distinct], kind="mergesort")[:size]]
    kept = _sort(tokens, offsets, distinct)
    return kept, total[kept]


@njit(nogil=True, cache=True)
def _compare(tokens, offsets, i, other_tokens, other_offsets, j):
    """-1, 0 or 1 if hypothesis i sorts before, equals, or sorts after hypothesis j of the others, by tokens."""
    first, other_first = offsets[i], other_offsets[j]
    length, other_length = offsets[i + 1] - first, other_offsets[j + 1] - other_first
    for k in range(min(length, other_length)):
        if tokens[first + k] != other_tokens[other_first + k]:
            return -1 if tokens[first + k] < other_tokens[other_first + k] else 1
    return -1 if length < other_length else np.int64(length > other_length)


@njit(nogil=True, cache=True)
def _sort(tokens, offsets, indices):
    """`indices` of hypotheses sorted by tokens, with a merge sort of runs of 1, 2, 4, …"""
    source, target = indices.copy(), indices.copy()
    run = 1
    while run < len(source):
        for start in range(0, len(source), 2 * run):
            middle, stop = min(start + run, len(source)), min(start + 2 * run, len(source))
            i, j = start, middle
            for k in range(start, stop):
                if j >= stop or (i < middle and _compare(tokens, offsets, source[i], tokens, offsets, source[j]) <= 0):
                    target[k] = source[i]
                    i += 1
                else:
                    target[k] = source[j]
                    j += 1
        source, target = target, source
        run *= 2
    return source


@njit(nogil=True, cache=True)
def _compress(tokens, offsets, order):
    """The length of the prefix that each hypothesis in `order` shares with the one before it, and its other tokens."""
    shared = np.zeros(len(order), np.int32)
    suffix_offsets = np.zeros(len(order) + 1, np.int64)
    suffixes = np.empty(len(tokens), tokens.dtype)
    filled = 0
    for n in range(len(order)):
        first, last = offsets[order[n]], offsets[order[n] + 1]
        if n > 0:
            before = offsets[order[n - 1]]
            longest = min(last - first, offsets[order[n - 1] + 1] - before)
            while shared[n] < longest and tokens[first + shared[n]] == tokens[before + shared[n]]:
                shared[n] += 1
        for k in range(first + shared[n], last):
            suffixes[filled] = tokens[k]
            filled += 1
        suffix_offsets[n + 1] = filled
    return shared, suffixes[:filled].copy(), suffix_offsets


@njit(nogil=True, cache=True)
def _expand(shared, suffix_lengths, suffixes):
    """The tokens that `_compress` stored, and their offsets."""
    offsets = np.zeros(len(shared) + 1, np.int64)
    for h in range(len(shared)):
        offsets[h + 1] = offsets[h] + shared[h] + suffix_lengths[h]
    tokens = np.empty(offsets[-1], suffixes.dtype)
    read = 0
    for h in range(len(shared)):
        for k in range(shared[h]):
            tokens[offsets[h] + k] = tokens[offsets[h - 1] + k]
        for k in range(offsets[h] + shared[h], offsets[h + 1]):
            tokens[k] = suffixes[read]
            read += 1
    return tokens, offsets


@njit(nogil=True, cache=True)
def _find(offsets, tokens, token_offsets, others, other_tokens, other_token_offsets):
    found = np.full(offsets[-1], -1, np.int64)
    for u in range(len(offsets) - 1):
        j = others[u]
        for i in range(offsets[u], offsets[u + 1]):
            while j < others[u + 1] and _compare(other_tokens, other_token_offsets, j, tokens, token_offsets, i) < 0:
                j += 1
            if j < others[u + 1] and _compare(other_tokens, other_token_offsets, j, tokens, token_offsets, i) == 0:
                found[i] = j
    return found
