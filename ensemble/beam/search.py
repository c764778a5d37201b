"""Prefix beam search for CTC over a batch: exact pruning, N-best, phone language model, all cores.

The search sums the paths of equal label sequences (Graves et al. 2006; Hannun et al. 2014) and returns what the
unpruned search with the same beam returns. The arithmetic is in `_beam_kernel`; this module checks the input, shares
the utterances among threads and builds the hypotheses. It reads no files, and it estimates no language models.
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
from models.ctc import check_batch, frame_fault
from registry.errors import InputError


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One decoded label sequence.

    `score` is `ctc + lm_weight * lm + length_bonus * len(tokens)`, natural logarithms. `ctc` is log P(tokens | frames)
    as far as the beam summed it (at most the exact value of `models.ctc.log_likelihood`), `lm` the language model's
    log-probability with the end of the sentence, 0 without a model. For each token, `frames` is the frame where it was
    most likely emitted and `confidences` its posterior probability there.
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
    """Decode `(N, T, C)` log-probabilities, blank 0, of `(N,)` lengths: up to `nbest` hypotheses each, best first.

    Fewer than `nbest` come back where fewer label sequences have a probability above zero. `threads` is how many
    utterances are decoded at once, by default every core this process may use; the GIL is not held meanwhile.
    Memory grows with beam × T for each thread.

    >>> best = beam_search(np.log(np.float32([[[0.4, 0.6], [0.5, 0.5]]])), [2], beam=2)[0][0]
    >>> best.tokens, round(best.ctc, 4)
    ((1,), -0.2231)

    Raises `InputError` for a shape or length that does not fit, NaN, +inf, a frame without a possible class, a beam
    below 1, `nbest` outside 1 … beam, a weight that is not finite, or a language model of another number of classes.
    """
    values, frames = check_batch(log_probs, np.asarray(lengths))
    if beam < 1:
        raise InputError(f"beam is {beam}; expected 1 or more")
    if not 1 <= nbest <= beam:
        raise InputError(f"nbest is {nbest}; expected 1 to {beam}, the beam")
    if not (np.isfinite(lm_weight) and np.isfinite(length_bonus)):
        raise InputError(f"language model weight {lm_weight} and length bonus {length_bonus} must be finite")
    graph = _score_graph(values.shape[2], lm, lm_weight, length_bonus)

    def decode(utterance: int) -> list[Hypothesis]:
        rows = values[utterance, : frames[utterance]]
        found = search(rows, beam, nbest, graph)
        if found[-1] >= 0:
            raise InputError(frame_fault(rows[found[-1]], utterance, found[-1]))
        return _hypotheses(*found[:-1], lm, lm_weight, length_bonus)

    workers = min(len(values), threads or numba.config.NUMBA_NUM_THREADS)
    if workers <= 1:
        return [decode(utterance) for utterance in range(len(values))]
    # The longest first, so that no thread is left with a long one at the end.
    longest_first = np.argsort(-frames, kind="stable").tolist()
    with ThreadPoolExecutor(workers) as pool:
        decoded = dict(zip(longest_first, pool.map(decode, longest_first), strict=True))
    return [decoded[utterance] for utterance in range(len(values))]


def _score_graph(classes: int, lm: PhoneLM | None, lm_weight: float, length_bonus: float) -> Graph:
    """What tokens add to a score: language model and length bonus, weighted.

    Weight and bonus are in the table, so the search's bound is exact for a weight or bonus of either sign.
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


def _hypotheses(lengths, tokens, frames, confidences, scores, lm, lm_weight, length_bonus) -> list[Hypothesis]:
    language = np.zeros(len(lengths)) if lm is None else sum_tokens(lm.log_probs, lm.next_state, tokens, lengths)
    ctc = scores - lm_weight * language - length_bonus * lengths
    stops = np.cumsum(lengths)
    return [
        Hypothesis(
            tuple(tokens[start:stop].tolist()),
            score,
            acoustic,
            linguistic,
            tuple(frames[start:stop].tolist()),
            tuple(confidences[start:stop].tolist()),
        )
        for start, stop, score, acoustic, linguistic in zip(
            (stops - lengths).tolist(), stops.tolist(), scores.tolist(), ctc.tolist(), language.tolist(), strict=True
        )
    ]
