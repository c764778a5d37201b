"""What every CTC model needs after its last layer: the greedy collapse and the exact sequence log-likelihood.

Blank is class 0. Everything here is numpy and numba, so scoring needs no torch. It does not search (`ensemble.beam`
does) and it does not train (the loss belongs to the objective).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numba import njit

from registry.errors import InputError

BLANK = 0

# In the linear domain a path is lost once its forward mass, relative to the product of frame maxima, falls below the
# smallest normal float64, exp(-708). A likelihood above exp(-600) of that product therefore has lost nothing that
# could change its 40th decimal; below it the logarithmic recursion, slower and without such a floor, takes over.
_LINEAR_FLOOR = -600.0
_FLUSH = 1e-305  # subnormal arithmetic is slow, and nothing below this can matter: see above


def check_batch(log_probs: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `(N, T, C)` float32 and `(N,)` int64, or say what is wrong with their shapes and lengths."""
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
            f"utterance {wrong} has length {frames[wrong]}; expected 1 to {values.shape[1]}, the frames there are"
        )
    return np.ascontiguousarray(values, dtype=np.float32), frames.astype(np.int64)


def greedy(log_probs: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    """Best class of each frame, repeats merged, blanks dropped: `(N, T, C)`, `(N,)` → one token list an utterance.

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


def check_frames(rows: np.ndarray, utterance: int) -> None:
    """Raise `InputError` naming the first frame of `(T, C)` with a NaN, +inf, or no possible class."""
    peaks = rows.max(axis=1)  # NaN propagates through max, so one pass over the classes finds all three
    for frame in np.flatnonzero(~np.isfinite(peaks))[:1]:
        raise InputError(frame_fault(rows[frame], utterance, int(frame)))


def frame_fault(row: np.ndarray, utterance: int, frame: int) -> str:
    """One line on what is wrong with a frame `(C,)` that no decoder can use."""
    if np.isnan(row).any():
        found = "NaN"
    elif np.isposinf(row).any():
        found = "+inf"
    else:
        found = "no class with a probability above zero"
    return f"utterance {utterance}, frame {frame}: {found}; expected log-probabilities, finite or -inf"


def log_likelihood(log_probs: np.ndarray, hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
    """Exact log P(y|x) of many hypotheses of one utterance: `(T, C)`, H token lists → `(H,)` float64.

    The sum over all alignments (Graves et al. 2006, equations 5 to 8). A hypothesis that cannot fit into T frames
    gets -inf. Raises `InputError` for NaN, +inf, zero frames, or a token outside 1 … C-1.

    >>> log_likelihood(np.log([[0.4, 0.6], [0.5, 0.5]]), [[1], [], [1, 1]]).round(4).tolist()
    [-0.2231, -1.6094, -inf]
    """
    rows = np.asarray(log_probs)
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
        raise InputError(f"log-probabilities are {rows.dtype} {rows.shape}; expected floats of shape (T, C), T above 0")
    check_frames(rows, 0)
    offsets = np.zeros(len(hypotheses) + 1, dtype=np.int64)
    np.cumsum([len(tokens) for tokens in hypotheses], out=offsets[1:])
    tokens = np.fromiter(chain.from_iterable(hypotheses), dtype=np.int64, count=int(offsets[-1]))
    for wrong in np.flatnonzero((tokens < 1) | (tokens >= rows.shape[1]))[:1]:
        which = int(np.searchsorted(offsets, wrong, side="right")) - 1
        raise InputError(f"hypothesis {which} has token {tokens[wrong]}; expected 1 to {rows.shape[1] - 1}")
    peaks = rows.max(axis=1, keepdims=True)
    relative = np.subtract(rows, peaks, dtype=np.float64)
    return float(peaks.sum(dtype=np.float64)) + _forward(np.exp(relative), relative, tokens, offsets)


@njit(nogil=True, cache=True, error_model="numpy")
def _forward(probs, log_probs, tokens, offsets):
    scores = np.empty(len(offsets) - 1)
    for h in range(len(scores)):
        labels = tokens[offsets[h] : offsets[h + 1]]
        repeats = 0
        for k in range(1, len(labels)):
            repeats += labels[k] == labels[k - 1]
        if len(labels) + repeats > len(probs):
            scores[h] = -np.inf
            continue
        scores[h] = _forward_linear(probs, labels)
        if not scores[h] > _LINEAR_FLOOR:
            scores[h] = _forward_log(log_probs, labels)
    return scores


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _forward_linear(probs, labels):
    """Forward recursion on probabilities `(T, C)`: blank states b[0..L], label states a[1..L] (a[0] stays 0)."""
    count = len(labels)
    blank, label = np.zeros(count + 1), np.zeros(count + 1)
    new_blank, new_label = np.zeros(count + 1), np.zeros(count + 1)
    skip = np.zeros(count + 1)  # 1 where a label may follow its predecessor without a blank between
    emission = np.zeros(count + 1)
    for k in range(1, count):
        skip[k + 1] = labels[k] != labels[k - 1]
    blank[0] = 1.0
    for t in range(len(probs)):
        row = probs[t]
        for k in range(count):
            emission[k + 1] = row[labels[k]]
        silence = row[0]
        new_blank[0] = blank[0] * silence
        # States beyond t + 1 labels are still empty.
        last = min(count, t + 1)
        for k in range(1, last + 1):
            stay = (blank[k] + label[k]) * silence
            emit = (label[k] + blank[k - 1] + skip[k] * label[k - 1]) * emission[k]
            new_blank[k] = stay if stay > _FLUSH else 0.0
            new_label[k] = emit if emit > _FLUSH else 0.0
        blank, new_blank = new_blank, blank
        label, new_label = new_label, label
    return np.log(blank[count] + label[count])


@njit(nogil=True, cache=True)
def _log_add(a, b):
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + math.log1p(math.exp(low - high))


@njit(nogil=True, cache=True)
def _forward_log(log_probs, labels):
    """The same recursion on logarithms, for hypotheses too unlikely for the linear one."""
    count = len(labels)
    blank, label = np.full(count + 1, -np.inf), np.full(count + 1, -np.inf)
    blank[0] = 0.0
    for row in log_probs:
        for k in range(count, 0, -1):  # downwards, so that k - 1 still holds the last frame's values
            stay = _log_add(blank[k], label[k]) + row[0]
            emit = _log_add(label[k], blank[k - 1])
            if k > 1 and labels[k - 1] != labels[k - 2]:
                emit = _log_add(emit, label[k - 1])
            blank[k], label[k] = stay, emit + row[labels[k - 1]]
        blank[0] += row[0]
    return _log_add(blank[count], label[count])
