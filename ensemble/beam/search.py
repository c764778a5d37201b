"""CTC prefix beam search over a batch: exact pruning, N-best lists, a phone language model, all cores.

The search sums the paths of equal label sequences (Graves et al. 2006; Hannun et al. 2014) and returns the same result
as the unpruned search with the same beam, up to ties: of prefixes with exactly equal scores at the edge of the beam,
the two may keep different ones. This module checks the input, distributes the utterances over threads and packs the
hypotheses; the compiled search of one utterance is in `ensemble.beam.kernel`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.beam.kernel import search
from ensemble.beam.state import IMPOSSIBLE, Graph
from ensemble.lm.automaton import sum_tokens, uniform_automaton
from ensemble.lm.ngram import PhoneLM
from ensemble.threads import map_threads
from folds.store.ragged import Ragged, offsets_of
from models.ctc import check_batch, check_frames, frame_fault
from registry.errors import InputError

MAX_BONUS = 1e6
"""Limit on what a token may add to a score. The search computes in float32, where -1e30 stands for log 0: sums near
that would become NaN, and NaN an index out of range."""

# Types of the arrays that `search` returns.
_EMPTY = (np.int64, np.int32, np.int32, np.float32, np.float64)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One decoded label sequence.

    `score` is `ctc + lm_weight * lm + length_bonus * len(tokens)` plus the tokens' bonuses, natural logarithms.
    `ctc` is log P(tokens | frames) summed over the paths in the beam, which is at most the exact value of
    `models.ctc.log_likelihood`. `lm` is the language model's log-probability, including the end of the utterance, or 0
    without a model. For each token, `frames` is the frame where it was most likely emitted and `confidences` its
    posterior probability there.
    """

    tokens: tuple[int, ...]
    score: float
    ctc: float = 0.0
    lm: float = 0.0
    frames: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class PackedHypotheses:
    """The N-best lists of N utterances, H hypotheses in total, in flat arrays; the values are those of `Hypothesis`."""

    offsets: np.ndarray
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, best first, (N + 1,)."""
    tokens: Ragged
    """The H hypotheses, int32."""
    frames: np.ndarray
    """The frame of each of `tokens.values`."""
    confidences: np.ndarray
    """The confidence of each of `tokens.values`, float32."""
    scores: np.ndarray
    """(H,) float64."""
    ctc: np.ndarray
    """(H,) float64."""
    lm: np.ndarray
    """(H,) float64."""

    def unpack(self) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance as objects."""
        spans = list(itertools.pairwise(self.tokens.offsets.tolist()))
        columns = self.scores.tolist(), self.ctc.tolist(), self.lm.tolist()
        hypotheses = [
            Hypothesis(
                tuple(self.tokens.values[start:stop].tolist()),
                *scores,
                tuple(self.frames[start:stop].tolist()),
                tuple(self.confidences[start:stop].tolist()),
            )
            for (start, stop), scores in zip(spans, zip(*columns, strict=True), strict=True)
        ]
        return [hypotheses[first:last] for first, last in itertools.pairwise(self.offsets.tolist())]


def beam_search(
    log_probs: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    beam: int = 50,
    nbest: int = 1,
    lm: PhoneLM | None = None,
    lm_weight: float = 0.0,
    length_bonus: float = 0.0,
    token_bonus: np.ndarray | None = None,
    threads: int | None = None,
) -> list[list[Hypothesis]]:
    """Decode `(N, T, C)` log-probabilities (blank 0) of `(N,)` lengths: up to `nbest` hypotheses each, best first.

    An utterance gets fewer than `nbest` hypotheses if fewer label sequences have a probability above zero. `beam` is
    the number of prefixes kept after each frame, `length_bonus` is added to a score for every label, and `token_bonus`
    `(C,)` additionally for each particular label, for example to subtract a prior. `threads` utterances are decoded in
    parallel, by default `ensemble.threads.worker_threads()`, with the GIL released. Memory grows with beam × T per
    thread.

    >>> best = beam_search(np.log(np.float32([[[0.4, 0.6], [0.5, 0.5]]])), [2], beam=2)[0][0]
    >>> best.tokens, round(best.ctc, 4)
    ((1,), -0.2231)

    Raises `InputError` for a mismatched shape or length, NaN, +inf, a frame without a possible class, a beam below 1,
    `nbest` outside 1 … beam, a non-finite weight, a token that would add more than `MAX_BONUS` to a score, or a
    language model or bonus with a different number of classes.
    """
    return packed_beam_search(
        log_probs, lengths, beam, nbest, lm, lm_weight, length_bonus, token_bonus, threads
    ).unpack()


def packed_beam_search(
    log_probs: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    beam: int = 50,
    nbest: int = 1,
    lm: PhoneLM | None = None,
    lm_weight: float = 0.0,
    length_bonus: float = 0.0,
    token_bonus: np.ndarray | None = None,
    threads: int | None = None,
) -> PackedHypotheses:
    """`beam_search` with its result in flat arrays.

    For 100-best lists it takes half the time, because only one thread at a time can create Python objects.
    """
    values, frame_counts = check_batch(log_probs, np.asarray(lengths))
    check_sizes(beam, nbest)
    if not (np.isfinite(lm_weight) and np.isfinite(length_bonus)):
        raise InputError(f"language model weight {lm_weight} and length bonus {length_bonus} must be finite")
    bonuses = _check_token_bonus(token_bonus, values.shape[2])
    graph = _score_graph(values.shape[2], lm, lm_weight, length_bonus + bonuses)

    def decode(utterance: int) -> tuple[np.ndarray, ...]:
        rows = values[utterance, : frame_counts[utterance]]
        check_frames(rows, utterance)
        *hypotheses, fault = search(rows, beam, nbest, graph)
        if fault >= 0:
            raise InputError(frame_fault(rows[fault], utterance, fault))
        return tuple(hypotheses)

    # Longest first, so that no thread is left with a long utterance at the end.
    longest_first = np.argsort(-frame_counts, kind="stable").tolist()
    decoded = dict(zip(longest_first, map_threads(decode, longest_first, threads), strict=True))
    packed = _pack([decoded[utterance] for utterance in range(len(values))])
    return _with_parts(packed, lm, lm_weight, length_bonus, bonuses)


def check_sizes(beam: int, nbest: int) -> None:
    """Raise `InputError` for a beam below 1, or `nbest` outside 1 … beam."""
    if beam < 1:
        raise InputError(f"beam is {beam}; expected 1 or more")
    if not 1 <= nbest <= beam:
        raise InputError(f"nbest is {nbest}; expected 1 to {beam}, the beam")


def _check_token_bonus(token_bonus: np.ndarray | None, classes: int) -> np.ndarray:
    """The bonus of each class `(C,)` float64. Raises `InputError` for another shape or a non-finite bonus."""
    bonus = np.zeros(classes) if token_bonus is None else np.asarray(token_bonus, np.float64)
    if bonus.shape != (classes,) or not np.isfinite(bonus).all():
        raise InputError(f"token bonus has shape {bonus.shape}; expected {classes} finite numbers, one per class")
    return bonus


def _score_graph(classes: int, lm: PhoneLM | None, lm_weight: float, token_bonus: np.ndarray) -> Graph:
    """What tokens add to a score: the weighted language model and each token's bonus (C,)."""
    if lm is not None and lm.classes != classes:
        raise InputError(
            f"the language model has {lm.classes} classes, the log-probabilities {classes}; expected the same alphabet"
        )
    _check_size("the length bonus and the bonuses of tokens", np.abs(token_bonus).max(initial=0.0))
    if lm is not None:
        _check_size("the language model's log-probabilities times its weight", abs(lm_weight) * lm.largest)
    bonus = token_bonus.astype(np.float32)
    return Graph(
        *(uniform_automaton(classes) if lm is None else lm.automaton),
        weight=np.float32(0.0 if lm is None else lm_weight),
        bonus=bonus,
        best_bonus=bonus[1:].max(initial=IMPOSSIBLE),
        lowest=np.float32(0.0 if lm is None else lm.lowest),
    )


def _check_size(what: str, size: float) -> None:
    """Raise `InputError` if a token may add more than `MAX_BONUS` to a score."""
    if not size <= MAX_BONUS:
        raise InputError(f"{what} are up to {size:g}; expected at most {MAX_BONUS:g}, or scores would overflow")


def _pack(decoded: Sequence[tuple[np.ndarray, ...]]) -> PackedHypotheses:
    """Hypotheses from the arrays that `search` returns for each utterance; `ctc` is the whole score."""
    columns = zip(*decoded, strict=True) if decoded else ([np.zeros(0, dtype)] for dtype in _EMPTY)
    lengths, tokens, frames, confidences, scores = (np.concatenate(column) for column in columns)
    offsets = offsets_of(len(arrays[0]) for arrays in decoded)
    packed = Ragged(tokens, offsets_of(lengths))
    return PackedHypotheses(offsets, packed, frames, confidences, scores, scores, np.zeros(len(scores)))


def _with_parts(
    packed: PackedHypotheses, lm: PhoneLM | None, lm_weight: float, length_bonus: float, bonuses: np.ndarray
) -> PackedHypotheses:
    """The hypotheses with `ctc` and `lm` as `Hypothesis` defines them."""
    tokens, lengths = packed.tokens.values, packed.tokens.lengths
    lm_scores = packed.lm if lm is None else sum_tokens(lm.automaton, tokens, lengths)
    bonus_sums = np.diff(np.concatenate([[0.0], np.cumsum(bonuses[tokens])])[packed.tokens.offsets])
    ctc_scores = packed.scores - lm_weight * lm_scores - length_bonus * lengths - bonus_sums
    return replace(packed, ctc=ctc_scores, lm=lm_scores)
