"""From CTC log-probabilities to tokens and scores: greedy decoding, and the exact log-likelihood of hypotheses.

Blank is class 0. This module uses NumPy and Numba only. Beam search is in `ensemble.beam`, the training loss in
`folds.training.objective`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from registry.errors import InputError

BLANK = 0

# In the linear domain, paths underflow when their probability, relative to the product of the frames' maxima, falls
# below the smallest normal float64, exp(-708). A likelihood above exp(-600) of that product has therefore lost less
# than 1e-40 of itself. Smaller ones are computed in the log domain, which is slower but does not underflow.
_LINEAR_FLOOR = -600.0
_FLUSH = 1e-305  # smaller values become 0: subnormal arithmetic is slow, and they are too small to matter, see above


MAX_LOG_PROB = 1e6
"""Largest value accepted for decoding. Log-probabilities are at most 0, and unnormalised scores are hardly larger; sums
of numbers like 1e38 over frames overflow."""


def check_batch(log_probs: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The batch as `(N, T, C)` float32 and `(N,)` int64. Raises `InputError` for wrong shapes, types or lengths."""
    values = np.asarray(log_probs)
    if values.ndim != 3 or values.shape[2] < 1 or values.dtype.kind != "f":
        raise InputError(f"log-probabilities are {values.dtype} {values.shape}; expected floats of shape (N, T, C)")
    frames = np.asarray(lengths)
    if frames.shape != (len(values),) or (frames.size and frames.dtype.kind not in "iu"):
        raise InputError(
            f"lengths are {frames.dtype} {frames.shape}; expected one integer for each of the {len(values)} utterances"
        )
    for wrong in np.flatnonzero((frames < 1) | (frames > values.shape[1]))[:1]:
        raise InputError(
            f"utterance {wrong} has length {frames[wrong]}; expected 1 to {values.shape[1]}, the number of frames"
        )
    return np.ascontiguousarray(values, dtype=np.float32), frames.astype(np.int64)


def greedy(log_probs: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    """Greedy decoding (best class per frame, merge repeats, drop blanks): `(N, T, C)`, `(N,)` → N lists of tokens.

    >>> greedy(np.log([[[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]]), np.array([4]))
    [[1, 1]]

    Raises `InputError` for NaN, +inf or a length outside 1 … T.
    """
    values, frames = check_batch(log_probs, lengths)
    tokens = []
    for utterance, count in enumerate(frames):
        rows = values[utterance, :count]
        check_frames(rows, utterance)
        best = rows.argmax(axis=1)
        starts = np.concatenate(([True], best[1:] != best[:-1]))
        tokens.append(best[starts & (best != BLANK)].tolist())
    return tokens


def check_utterance(log_probs: np.ndarray) -> np.ndarray:
    """One utterance's log-probabilities `(T, C)`, at least float32. Raises `InputError` for wrong shapes or values."""
    rows = np.asarray(log_probs)
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
        raise InputError(f"log-probabilities are {rows.dtype} {rows.shape}; expected floats of shape (T, C), T above 0")
    if rows.dtype == np.float16:  # arithmetic in float16 is slow
        rows = rows.astype(np.float32)
    check_frames(rows, 0)
    return rows


def check_frames(rows: np.ndarray, utterance: int) -> None:
    """Raise `InputError` for the first frame of `(T, C)` that cannot be decoded.

    Such a frame contains NaN or a value above `MAX_LOG_PROB`, or gives every class probability zero.
    """
    peaks = rows.max(axis=1)  # NaN propagates through max, so one pass over the classes finds all three cases
    for frame in np.flatnonzero(~((peaks > -np.inf) & (peaks <= MAX_LOG_PROB)))[:1]:
        raise InputError(frame_fault(rows[frame], utterance, int(frame)))


def frame_fault(row: np.ndarray, utterance: int, frame: int) -> str:
    """One line stating why a frame `(C,)` cannot be decoded."""
    if np.isnan(row).any():
        found = "NaN"
    elif row.max() > MAX_LOG_PROB:
        found = f"{row.max():+g}"
    else:
        found = "no class with a probability above zero"
    return f"utterance {utterance}, frame {frame}: {found}; expected log-probabilities, finite or -inf"


def log_likelihood(log_probs: np.ndarray, hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
    """Exact log P(hypothesis | utterance) of several hypotheses: `(T, C)`, H token lists → `(H,)` float64.

    The sum over all alignments (Graves et al. 2006, equations 5 to 8); -inf for a hypothesis that needs more than T
    frames. Sorted hypotheses are scored fastest, see `packed_log_likelihood`. Raises `InputError` for NaN, +inf, zero
    frames, or a token outside 1 … C-1.

    >>> log_likelihood(np.log([[0.4, 0.6], [0.5, 0.5]]), [[1], [], [1, 1]]).round(4).tolist()
    [-0.2231, -1.6094, -inf]
    """
    offsets = np.zeros(len(hypotheses) + 1, dtype=np.int64)
    np.cumsum([len(tokens) for tokens in hypotheses], out=offsets[1:])
    tokens = np.fromiter(chain.from_iterable(hypotheses), dtype=np.int64, count=int(offsets[-1]))
    return packed_log_likelihood(log_probs, tokens, offsets)


def packed_log_likelihood(log_probs: np.ndarray, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """`log_likelihood` of hypotheses packed into one array: hypothesis h is `tokens[offsets[h]:offsets[h + 1]]`.

    The prefix that a hypothesis shares with the one before it is computed only once. In a sorted 100-best list, shared
    prefixes make up five of every six labels.
    """
    rows = check_utterance(log_probs)
    for wrong in np.flatnonzero((tokens < 1) | (tokens >= rows.shape[1]))[:1]:
        which = int(np.searchsorted(offsets, wrong, side="right")) - 1
        raise InputError(f"hypothesis {which} has token {tokens[wrong]}; expected 1 to {rows.shape[1] - 1}")
    peaks = rows.max(axis=1, keepdims=True)
    relative = np.subtract(rows, peaks, dtype=np.float64)
    packed = tokens.astype(np.int32, copy=False)  # one type, so that `_forward` is compiled once
    return float(peaks.sum(dtype=np.float64)) + _forward(np.exp(relative), relative, packed, offsets)


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(probs, log_probs, tokens, offsets):
    labels, skip, parent, head, last = _build_trie(tokens, offsets)
    scores = _forward_linear(probs, labels, skip, parent, head)[last]
    for h in range(len(scores)):
        hypothesis = tokens[offsets[h] : offsets[h + 1]]
        repeats = 0
        for k in range(1, len(hypothesis)):
            repeats += hypothesis[k] == hypothesis[k - 1]
        if len(hypothesis) + repeats > len(probs):
            scores[h] = -np.inf
        elif not scores[h] > _LINEAR_FLOOR:
            scores[h] = _forward_log(log_probs, hypothesis)
    return scores


@njit(nogil=True, cache=True)
def _build_trie(tokens, offsets):
    """The trie of the hypotheses, in which each one shares its common prefix with the one before it.

    Node 0 is the empty prefix. Returns each node's last label, whether that label may follow the one before it without
    a blank between them (1, else 0), `parent` and `head` (both `(branches,)`), and the node of each hypothesis. The
    parent of node n is n - 1, except for the nodes in `head`, where a hypothesis leaves the shared prefix: their
    parents are in `parent`.
    """
    count = len(offsets) - 1
    labels, skip = np.zeros(len(tokens) + 1, np.int64), np.zeros(len(tokens) + 1)
    parent, head, last = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    path = np.zeros(len(tokens) + 1, np.int64)  # the nodes of the current hypothesis's prefixes, by prefix length
    nodes, branches = 1, 0
    for h in range(count):
        first, length = offsets[h], offsets[h + 1] - offsets[h]
        shared = 0
        if h > 0:
            before, longest = offsets[h - 1], min(length, offsets[h] - offsets[h - 1])
            while shared < longest and tokens[first + shared] == tokens[before + shared]:
                shared += 1
        if shared < length:
            parent[branches], head[branches] = path[shared], nodes
            branches += 1
        for k in range(shared, length):
            labels[nodes] = tokens[first + k]
            skip[nodes] = k > 0 and tokens[first + k] != tokens[first + k - 1]
            path[k + 1] = nodes
            nodes += 1
        last[h] = path[length]
    return labels[:nodes], skip[:nodes], parent[:branches], head[:branches], last


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _forward_linear(probs, labels, skip, parent, head):
    """Forward recursion on probabilities `(T, C)` for the nodes of a trie: log-likelihood `(nodes,)` of each prefix.

    `blank` and `label` are the probabilities of a node's prefix so far, for paths whose last frame is a blank and for
    those ending in the prefix's last label (none for node 0).
    """
    count = len(labels)
    blank, label = np.zeros(count), np.zeros(count)
    new_blank, new_label = np.zeros(count), np.zeros(count)
    emission = np.zeros(count)
    blank[0] = 1.0
    for t in range(len(probs)):
        row = probs[t]
        for n in range(1, count):
            emission[n] = row[labels[n]]
        blank_emission = row[0]
        new_blank[0] = blank[0] * blank_emission
        for n in range(1, count):
            stay = (blank[n] + label[n]) * blank_emission
            emit = (label[n] + blank[n - 1] + skip[n] * label[n - 1]) * emission[n]
            new_blank[n] = stay if stay > _FLUSH else 0.0
            new_label[n] = emit if emit > _FLUSH else 0.0
        for branch in range(len(head)):
            n, p = head[branch], parent[branch]
            emit = (label[n] + blank[p] + skip[n] * label[p]) * emission[n]
            new_label[n] = emit if emit > _FLUSH else 0.0
        blank, new_blank = new_blank, blank
        label, new_label = new_label, label
    return np.log(blank + label)


@njit(nogil=True, cache=True)
def _log_add(a, b):
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + math.log1p(math.exp(low - high))


@njit(nogil=True, cache=True)
def _forward_log(log_probs, labels):
    """The same recursion on log-probabilities, for hypotheses whose probability would underflow."""
    count = len(labels)
    blank, label = np.full(count + 1, -np.inf), np.full(count + 1, -np.inf)
    blank[0] = 0.0
    for row in log_probs:
        for k in range(count, 0, -1):  # downwards, so that k - 1 still has the previous frame's values
            stay = _log_add(blank[k], label[k]) + row[0]
            emit = _log_add(label[k], blank[k - 1])
            if k > 1 and labels[k - 1] != labels[k - 2]:
                emit = _log_add(emit, label[k - 1])
            blank[k], label[k] = stay, emit + row[labels[k - 1]]
        blank[0] += row[0]
    return _log_add(blank[count], label[count])
