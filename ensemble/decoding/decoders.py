"""Decoders by name: `greedy`, `beam`, and those of `ensemble.decoding.third_party` that are installed.

Every decoder has the arguments and the return type of `ensemble.beam.beam_search`. To add one, register a function in a
new file in this folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypedDict, Unpack

import numpy as np

from ensemble.beam.search import Hypothesis, beam_search, check_sizes
from ensemble.lm.ngram import PhoneLM
from models import ctc
from registry.errors import InputError
from registry.registry import Registry


class DecoderSettings(TypedDict, total=False):
    """The keyword arguments of every decoder; `ensemble.beam.beam_search` documents them and their defaults."""

    beam: int
    nbest: int
    lm: PhoneLM | None
    lm_weight: float
    length_bonus: float
    token_bonus: np.ndarray | None


class Decoder(Protocol):
    """Maps `(N, T, C)` log-probabilities and `(N,)` lengths to up to `nbest` hypotheses per utterance, best first."""

    def __call__(
        self, log_probs: np.ndarray, lengths: np.ndarray, **settings: Unpack[DecoderSettings]
    ) -> list[list[Hypothesis]]: ...


# A hypothesis of a decoder without language model: tokens, and the frame of each, or no frames at all.
TokensAndFrames = tuple[Sequence[int], tuple[int, ...]]

# The N-best of each utterance, from log-probabilities `(N, T, C)`, lengths `(N,)`, beam and nbest.
AcousticSearch = Callable[[np.ndarray, np.ndarray, int, int], list[list[TokensAndFrames]]]

DECODERS: Registry[Decoder] = Registry("decoders", package="ensemble.decoding")

# How to install the third-party decoders that have an adapter.
HOW_TO_INSTALL = {
    "ctcdecode": "build it with `make ctcdecode` (a C++ compiler and a few minutes)",
    "flashlight": "pip install flashlight-text",
    "fast_ctc_decode": "pip install fast-ctc-decode",
}

DECODERS.register("beam")(beam_search)


def get_decoder(name: str) -> Decoder:
    """The decoder called `name`. Raises `InputError` for an unknown one, and for one that is not installed."""
    if name in HOW_TO_INSTALL and name not in DECODERS:
        raise InputError(f"decoders: '{name}' is not installed: {HOW_TO_INSTALL[name]}")
    return DECODERS.get(name)


def register_acoustic_decoder(name: str, search: AcousticSearch, max_nbest: int | None = None) -> None:
    """Register a search without language model as a decoder.

    The decoder checks its input, raises `InputError` for settings that `search` does not support and for a result of
    `search` that is not one N-best list per utterance, and ranks the hypotheses by their exact CTC log-likelihood. An
    N-best list of `search` may hold a hypothesis twice, or impossible ones, which are left out. `max_nbest` is the
    maximum length of an N-best list of `search`.
    """

    def decode(
        log_probs: np.ndarray, lengths: np.ndarray, **settings: Unpack[DecoderSettings]
    ) -> list[list[Hypothesis]]:
        beam, nbest = settings.get("beam", 50), settings.get("nbest", 1)
        check_supported(name, settings, max_nbest)
        check_sizes(beam, nbest)
        values, frame_counts = ctc.check_batch(log_probs, np.asarray(lengths))
        for row, count in enumerate(frame_counts):
            ctc.check_frames(values[row, :count], row)
        nbest_lists = search(values, frame_counts, beam, nbest)
        _check_result(name, nbest_lists, len(values))
        return [
            _ranked(score_hypothesis(values[row, : frame_counts[row]], *found) for found in nbest_list)
            for row, nbest_list in enumerate(nbest_lists)
        ]

    functools.update_wrapper(decode, search)  # so that the registry attributes it to the search's module
    DECODERS.register(name, language_model=False)(decode)


def _ranked(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses, best first, each once; without those of probability zero, unless there are no others."""
    found: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in hypotheses:
        found.setdefault(hypothesis.tokens, hypothesis)
    ranked = sorted(found.values(), key=lambda hypothesis: -hypothesis.score)
    return [hypothesis for hypothesis in ranked if hypothesis.score > -np.inf] or ranked[:1]


def _check_result(name: str, nbest_lists: list[list[TokensAndFrames]], utterances: int) -> None:
    """Raise `InputError` unless a search returned hypotheses, each a pair, for every utterance."""
    if len(nbest_lists) != utterances:
        raise InputError(
            f"decoder {name}: returned {len(nbest_lists)} N-best lists for {utterances} utterances; expected one each"
        )
    for row, nbest in enumerate(nbest_lists):
        try:
            valid = len(nbest) > 0 and all(len(frames) in (0, len(tokens)) for tokens, frames in nbest)
        except (TypeError, ValueError):  # not a list, or one whose elements are not pairs
            valid = False
        if not valid:
            raise InputError(
                f"decoder {name}: returned {str(nbest)[:80]} for utterance {row}; expected a list of hypotheses "
                "(tokens, frames), with one frame per token or () for no frames"
            )


def check_supported(name: str, settings: DecoderSettings, max_nbest: int | None) -> None:
    """Raise `InputError` for settings that decoder `name` would otherwise ignore."""
    unknown = settings.keys() - DecoderSettings.__annotations__.keys()
    if unknown:
        raise TypeError(f"decoder {name}: unexpected settings {', '.join(sorted(unknown))}")
    if settings.get("lm") is not None or settings.get("length_bonus", 0.0) or settings.get("token_bonus") is not None:
        raise InputError(f"decoder {name}: supports no language model and no length bonus; use the decoder beam")
    nbest = settings.get("nbest", 1)
    if max_nbest is not None and nbest > max_nbest:
        raise InputError(f"decoder {name}: nbest is {nbest}; expected at most {max_nbest}; use the decoder beam")


def collapse(path: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """Convert a path, one class per frame, to tokens and the frames where they begin."""
    starts = [t for t, token in enumerate(path) if token != ctc.BLANK and (t == 0 or path[t - 1] != token)]
    return [path[t] for t in starts], tuple(starts)


def score_hypothesis(rows: np.ndarray, tokens: Sequence[int], frames: Sequence[int] = ()) -> Hypothesis:
    """A hypothesis with its exact CTC log-likelihood given `(T, C)`, for decoders that do not return it.

    `frames` is empty if a decoder does not return frames; the hypothesis then has no confidences.
    """
    ctc_score = float(ctc.log_likelihood(rows, [tokens])[0])
    confidences = tuple(float(np.exp(rows[t, c])) for t, c in zip(frames, tokens, strict=False))
    return Hypothesis(tuple(tokens), ctc_score, ctc_score, 0.0, tuple(frames), confidences)


def _greedy(log_probs: np.ndarray, lengths: np.ndarray, beam: int, nbest: int) -> list[list[TokensAndFrames]]:
    """The best class of each frame, collapsed: no beam, no N-best, no language model."""
    return [[collapse(rows[:count].argmax(axis=1).tolist())] for rows, count in zip(log_probs, lengths, strict=True)]


register_acoustic_decoder("greedy", _greedy, max_nbest=1)
