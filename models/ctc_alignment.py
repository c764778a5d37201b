"""Forced alignment: the frames in which CTC emits each token of a given sequence, by an exact Viterbi search.

The search runs over the sequence with a blank before, between and after its tokens (Graves et al. 2006, section 4.1),
and takes the maximum over paths where `models.ctc.log_likelihood` takes the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from models.ctc import BLANK, check_utterance
from registry.errors import InputError


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> tuple[np.ndarray, float]:
    """The most probable alignment of `(T, C)` with L tokens: each token's frames `(L, 2)`, the path's log-probability.

    Token k is emitted from frame `spans[k, 0]` up to, but excluding, `spans[k, 1]`; all other frames are blank. If no
    alignment has a probability above 0 (too few frames, or tokens of probability 0), the spans are -1 and the
    log-probability is -inf. Raises `InputError` for NaN, +inf, zero frames, or a token outside 1 … C-1.

    >>> spans, score = align(np.log([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.8, 0.2]]), [1])
    >>> spans.tolist(), round(float(np.exp(score)), 4)
    ([[1, 3]], 0.4032)
    """
    rows = check_utterance(log_probs)
    labels = np.asarray(tokens, np.int64)
    for wrong in np.flatnonzero((labels < 1) | (labels >= rows.shape[1]))[:1]:
        raise InputError(f"token {labels[wrong]}; expected 1 to {rows.shape[1] - 1}")
    states, score = _viterbi(np.ascontiguousarray(rows, np.float64), labels)
    if not np.isfinite(score):
        return np.full((len(labels), 2), -1), -np.inf
    of_tokens = 2 * np.arange(len(labels)) + 1
    starts, ends = (np.searchsorted(states, of_tokens, side) for side in ("left", "right"))
    return np.stack([starts, ends], axis=1), float(score)


@njit(nogil=True, cache=True)
def _viterbi(log_probs, tokens):
    """The best path's state in each frame and its score; state 2k + 1 is token k, even states are blanks."""
    frames, states = len(log_probs), 2 * len(tokens) + 1
    best = np.full(states, -np.inf)
    best[0] = log_probs[0, BLANK]
    if states > 1:
        best[1] = log_probs[0, tokens[0]]
    steps = np.zeros((frames, states), np.uint8)  # how many states the path advanced since the previous frame
    for t in range(1, frames):
        for s in range(states - 1, -1, -1):  # downwards, so that lower states still have the previous frame's values
            step, score = 0, best[s]
            if s > 0 and best[s - 1] > score:
                step, score = 1, best[s - 1]
            if s > 1 and s % 2 == 1 and tokens[s // 2] != tokens[s // 2 - 1] and best[s - 2] > score:
                step, score = 2, best[s - 2]
            steps[t, s] = step
            best[s] = score + log_probs[t, tokens[s // 2] if s % 2 == 1 else BLANK]
    last = states - 1
    if states > 1 and best[states - 2] > best[last]:
        last = states - 2
    path = np.empty(frames, np.int64)
    state = last
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state -= steps[t, state]
    return path, best[last]
