"""CTC log-probabilities to tokens and scores: greedy decoding, and the exact log-likelihood of hypotheses.

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
# than 1e-40 of itself. Smaller ones are computed by the logarithmic recursion, which is slower and does not underflow.
_LINEAR_FLOOR = -600.0
_FLUSH = 1e-305  # smaller values become 0: subnormal arithmetic is slow, and they are too small to matter, see above


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
    """Greedy decoding, the best class per frame with repeats merged and blanks dropped: `(N, T, C)`, `(N,)` → N lists.

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
    """Raise `InputError` for the first frame of `(T, C)` with NaN, +inf, or probability zero for every class."""
    peaks = rows.max(axis=1)  # NaN propagates through max, so one pass over the classes finds all three cases
    for frame in np.flatnonzero(~np.isfinite(peaks))[:1]:
        raise InputError(frame_fault(rows[frame], utterance, int(frame)))


def frame_fault(row: np.ndarray, utterance: int, frame: int) -> str:
    """One line that says what is wrong with a frame `(C,)` that cannot be decoded."""
    if np.isnan(row).any():
        found = "NaN"
    elif np.isposinf(row).any():
        found = "+inf"
    else:
        found = "no class with a probability above zero"
    return f"utterance {utterance}, frame {frame}: {found}; expected log-probabilities, finite or -inf"


def log_likelihood(log_probs: np.ndarray, hypotheses: Sequence[Sequence[int]]) -> np.ndarray:
    """Exact log P(hypothesis | utterance) of several hypotheses: `(T, C)`, H token lists → `(H,)` float64.

    The sum over all alignments (Graves et al. 2006, equations 5 to 8). A hypothesis that needs more than T frames has
    -inf. Raises `InputError` for NaN, +inf, zero frames, or a token outside 1 … C-1.

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
    skip = np.zeros(count + 1)  # 1 where a label may follow the previous one without a blank between them
    emission = np.zeros(count + 1)
    for k in range(1, count):
        skip[k + 1] = labels[k] != labels[k - 1]
    blank[0] = 1.0
    for t in range(len(probs)):
        row = probs[t]
        for k in range(count):
            emission[k + 1] = row[labels[k]]
        blank_emission = row[0]
        new_blank[0] = blank[0] * blank_emission
        # After frame t, at most t + 1 labels have been emitted.
        last = min(count, t + 1)
        for k in range(1, last + 1):
            stay = (blank[k] + label[k]) * blank_emission
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
