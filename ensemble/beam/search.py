"""CTC prefix beam search over a batch: exact pruning, N-best lists, a phone language model, all cores.

The search sums the paths of equal label sequences (Graves et al. 2006; Hannun et al. 2014) and returns what the
unpruned search with the same beam returns. This module checks the input, distributes the utterances over threads and
builds the hypotheses; the compiled search of one utterance is in `ensemble.beam.kernel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from ensemble.beam.kernel import search
from ensemble.beam.state import Graph
from ensemble.lm.ngram import PhoneLM, sum_tokens
from folds.store.ragged import offsets_of
from models.ctc import check_batch, frame_fault
from registry.errors import InputError


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One decoded label sequence.

    `score` is `ctc + lm_weight * lm + length_bonus * len(tokens)`, natural logarithms. `ctc` is log P(tokens | frames)
    as far as the beam summed it, which is at most the exact value of `models.ctc.log_likelihood`. `lm` is the language
    model's log-probability, the end of the utterance included, or 0 without a model. For each token, `frames` is the
    frame where it was most likely emitted and `confidences` its posterior probability there.
    """

    tokens: tuple[int, ...]
    score: float
    ctc: float = 0.0
    lm: float = 0.0
    frames: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()


def beam_search(
    log_probs: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    beam: int = 50,
    nbest: int = 1,
    lm: PhoneLM | None = None,
    lm_weight: float = 0.0,
    length_bonus: float = 0.0,
    threads: int | None = None,
) -> list[list[Hypothesis]]:
    """Decode `(N, T, C)` log-probabilities (blank 0) of `(N,)` lengths: up to `nbest` hypotheses each, best first.

    An utterance gets fewer than `nbest` hypotheses where fewer label sequences have a probability above zero.
    `beam` is the number of prefixes kept after each frame, `length_bonus` what each label adds to a score. `threads`
    utterances are decoded at a time, by default as many as numba has threads; the GIL is released meanwhile. Memory
    grows with beam × T per thread.

    >>> best = beam_search(np.log(np.float32([[[0.4, 0.6], [0.5, 0.5]]])), [2], beam=2)[0][0]
    >>> best.tokens, round(best.ctc, 4)
    ((1,), -0.2231)

    Raises `InputError` for a shape or length that does not fit, NaN, +inf, a frame without a possible class, a beam
    below 1, `nbest` outside 1 … beam, a weight that is not finite, or a language model with a different number of
    classes.
    """
    values, frame_counts = check_batch(log_probs, np.asarray(lengths))
    if beam < 1:
        raise InputError(f"beam is {beam}; expected 1 or more")
    if not 1 <= nbest <= beam:
        raise InputError(f"nbest is {nbest}; expected 1 to {beam}, the beam")
    if not (np.isfinite(lm_weight) and np.isfinite(length_bonus)):
        raise InputError(f"language model weight {lm_weight} and length bonus {length_bonus} must be finite")
    graph = _score_graph(values.shape[2], lm, lm_weight, length_bonus)

    def decode(utterance: int) -> list[Hypothesis]:
        rows = values[utterance, : frame_counts[utterance]]
        token_counts, tokens, frames, confidences, scores, fault = search(rows, beam, nbest, graph)
        if fault >= 0:
            raise InputError(frame_fault(rows[fault], utterance, fault))
        return _hypotheses(token_counts, tokens, frames, confidences, scores, lm, lm_weight, length_bonus)

    workers = min(len(values), threads or numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set at import
    if workers <= 1:
        return [decode(utterance) for utterance in range(len(values))]
    # Longest first, so that no thread is left with a long utterance at the end.
    longest_first = np.argsort(-frame_counts, kind="stable").tolist()
    with ThreadPoolExecutor(workers) as pool:
        decoded = dict(zip(longest_first, pool.map(decode, longest_first), strict=True))
    return [decoded[utterance] for utterance in range(len(values))]


def _score_graph(classes: int, lm: PhoneLM | None, lm_weight: float, length_bonus: float) -> Graph:
    """What tokens add to a score: the weighted language model and the length bonus.

    Both are in one table, so the search's upper bound is exact for weights and bonuses of either sign.
    """
    if lm is None:
        edges = np.full((1, classes), length_bonus, dtype=np.float32)
        return Graph(edges, np.zeros((1, classes), np.int32), edges[:, 0].copy(), np.zeros(1, np.float32))
    if lm.classes != classes:
        raise InputError(
            f"the language model has {lm.classes} classes, the log-probabilities {classes}; expected the same alphabet"
        )
    edges = (lm_weight * lm.log_probs + length_bonus).astype(np.float32)
    end = (lm_weight * lm.log_probs[:, 0]).astype(np.float32)
    return Graph(edges, lm.next_state, edges[:, 1:].max(axis=1), end)


def _hypotheses(
    lengths: np.ndarray,
    tokens: np.ndarray,
    frames: np.ndarray,
    confidences: np.ndarray,
    scores: np.ndarray,
    lm: PhoneLM | None,
    lm_weight: float,
    length_bonus: float,
) -> list[Hypothesis]:
    """Hypotheses from the arrays that `search` returns; `ctc` is the score without language model and length bonus."""
    lm_scores = np.zeros(len(lengths)) if lm is None else sum_tokens(lm.log_probs, lm.next_state, tokens, lengths)
    ctc_scores = scores - lm_weight * lm_scores - length_bonus * lengths
    offsets = offsets_of(lengths).tolist()
    columns = scores.tolist(), ctc_scores.tolist(), lm_scores.tolist()
    return [
        Hypothesis(
            tuple(tokens[start:stop].tolist()),
            score,
            ctc,
            lm_score,
            tuple(frames[start:stop].tolist()),
            tuple(confidences[start:stop].tolist()),
        )
        for start, stop, score, ctc, lm_score in zip(offsets[:-1], offsets[1:], *columns, strict=True)
    ]
