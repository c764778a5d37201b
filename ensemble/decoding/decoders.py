"""Decoders by name: `greedy`, `beam` and, where their packages are installed, the peers in `ensemble.adapters`.

A decoder is called as `ensemble.beam.beam_search` is and returns the same. This module only names them; `decoder` says
how to get one that is not installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ensemble.beam.search import Hypothesis, beam_search
from ensemble.lm.ngram import PhoneLM
from models import ctc
from registry.errors import InputError
from registry.registry import Registry


class Decoder(Protocol):
    """`(N, T, C)` log-probabilities and `(N,)` lengths to up to `nbest` hypotheses an utterance, best first."""

    def __call__(
        self,
        log_probs: np.ndarray,
        lengths: np.ndarray,
        beam: int = 50,
        nbest: int = 1,
        lm: PhoneLM | None = None,
        lm_weight: float = 0.0,
        length_bonus: float = 0.0,
    ) -> list[list[Hypothesis]]: ...


DECODERS: Registry[Decoder] = Registry("decoders", package="ensemble.decoding")

# The adapters that this room has, each with how to get its package.
HOW_TO_INSTALL = {
    "ctcdecode": "build it with `make ctcdecode` (a C++ compiler and a few minutes)",
    "flashlight": "pip install flashlight-text",
    "fast_ctc_decode": "pip install fast-ctc-decode",
}

DECODERS.register("beam")(beam_search)


@DECODERS.register("greedy")
def greedy(
    log_probs: np.ndarray,
    lengths: np.ndarray,
    beam: int = 1,
    nbest: int = 1,
    lm: PhoneLM | None = None,
    lm_weight: float = 0.0,
    length_bonus: float = 0.0,
) -> list[list[Hypothesis]]:
    """The best class of each frame, collapsed: no beam, no N-best, no language model."""
    refuse_language_model("greedy", nbest, 1, lm, length_bonus)
    values, frames = ctc.check_batch(log_probs, np.asarray(lengths))
    found = []
    for row, count in enumerate(frames):
        rows = values[row, :count]
        ctc.check_frames(rows, row)
        found.append([scored(rows, *collapse(rows.argmax(axis=1).tolist()))])
    return found


def decoder(name: str) -> Decoder:
    """The decoder called `name`. Raises `InputError` for an unknown one, or saying how to get one not installed."""
    if name in HOW_TO_INSTALL and name not in DECODERS:
        raise InputError(f"decoders: '{name}' is not installed: {HOW_TO_INSTALL[name]}")
    return DECODERS.get(name)


def refuse_language_model(name: str, nbest: int, most: int, lm: PhoneLM | None, length_bonus: float) -> None:
    """Raise `InputError` for what decoder `name` cannot do, rather than leave it out in silence."""
    if lm is not None or length_bonus:
        raise InputError(f"decoder {name}: takes no language model and no length bonus; use the decoder beam")
    if nbest > most:
        raise InputError(f"decoder {name}: nbest is {nbest}; expected at most {most}; use the decoder beam")


def collapse(path: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """A path, a class for each frame, as tokens and the frames where they begin."""
    starts = [t for t, token in enumerate(path) if token != ctc.BLANK and (t == 0 or path[t - 1] != token)]
    return [path[t] for t in starts], tuple(starts)


def scored(rows: np.ndarray, tokens: Sequence[int], frames: Sequence[int] = ()) -> Hypothesis:
    """A hypothesis with its exact CTC log-likelihood given `(T, C)`, for decoders that have no such score.

    `frames` is empty where a decoder tells none; then there are no confidences.
    """
    ctc_score = float(ctc.log_likelihood(rows, [tokens])[0])
    confidences = tuple(float(np.exp(rows[t, c])) for t, c in zip(frames, tokens, strict=False))
    return Hypothesis(tuple(tokens), ctc_score, ctc_score, 0.0, tuple(frames), confidences)
