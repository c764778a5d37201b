"""Other people's CTC beam decoders behind our decoders' interface, registered where their packages are installed.

Each has a plain function too, `decode_with_…`, which takes the peer's own settings and does nothing else: the benchmark
times that. None of them gets our language model: they want KenLM files and words; the decoder `beam` is for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from ensemble.beam.search import Hypothesis
from ensemble.decoding.decoders import DECODERS, collapse, refuse_language_model, scored
from ensemble.lm.ngram import PhoneLM
from models.ctc import check_batch, check_frames

# What a peer found for one utterance: per hypothesis its tokens and their frames, best first.
Found = list[tuple[list[int], tuple[int, ...]]]

_FIRST_CHARACTER = 0x100  # peers want a character a label; these are no control characters


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def _characters(classes: int) -> list[str]:
    return [chr(_FIRST_CHARACTER + label) for label in range(classes)]


def decode_with_ctcdecode(
    log_probs: np.ndarray, lengths: np.ndarray, beam: int, nbest: int, top_n: int | None = None, threads: int = 1
) -> list[Found]:
    """ctcdecode (a build of PyPI's ctcdecodeupd); `top_n` tokens a frame are looked at, by default all."""
    import torch
    from ctcdecode import CTCBeamDecoder

    classes = log_probs.shape[2]
    search = CTCBeamDecoder(
        _characters(classes),
        cutoff_top_n=top_n or classes,
        beam_width=beam,
        num_processes=threads,
        blank_id=0,
        log_probs_input=True,
    )
    tokens, _, frames, counts = search.decode(torch.from_numpy(log_probs), torch.from_numpy(lengths))
    return [
        [
            (tokens[row, h, : counts[row, h]].tolist(), tuple(frames[row, h, : counts[row, h]].tolist()))
            for h in range(min(nbest, beam))
        ]
        for row in range(len(lengths))
    ]


def decode_with_flashlight(
    log_probs: np.ndarray,
    lengths: np.ndarray,
    beam: int,
    nbest: int,
    beam_token: int | None = None,
    threshold: float = 1e9,
) -> list[Found]:
    """flashlight-text, lexicon-free; `beam_token` tokens a frame and prefixes within `threshold` of the best."""
    from flashlight.lib.text.decoder import CriterionType, LexiconFreeDecoder, LexiconFreeDecoderOptions, ZeroLM

    classes = log_probs.shape[2]
    options = LexiconFreeDecoderOptions(
        beam_size=beam,
        beam_size_token=beam_token or classes,
        beam_threshold=threshold,
        lm_weight=0.0,
        sil_score=0.0,
        log_add=True,
        criterion_type=CriterionType.CTC,
    )
    # There is no silence label apart from the blank: with -1 no label gets a silence score.
    search = LexiconFreeDecoder(options, ZeroLM(), -1, 0, [])
    found = []
    for row, length in enumerate(lengths.tolist()):
        rows = np.ascontiguousarray(log_probs[row, :length])
        results = search.decode(rows.ctypes.data, length, classes)
        # A path has a token a frame, with one more at each end.
        found.append([collapse(result.tokens[1 : length + 1]) for result in results[:nbest]])
    return found


def decode_with_fast_ctc_decode(probs: Sequence[np.ndarray], beam: int, cut: float = 0.0) -> list[Found]:
    """fast-ctc-decode on probabilities `(T, C)` an utterance; tokens below `cut` in a frame are not looked at."""
    import fast_ctc_decode

    characters = _characters(probs[0].shape[1]) if len(probs) else []
    found: list[Found] = []
    for rows in probs:
        # The frames it tells are where its search first met a label, not where the label is: left out.
        text, _ = fast_ctc_decode.beam_search(rows, characters, beam_size=beam, beam_cut_threshold=cut)
        found.append([([ord(character) - _FIRST_CHARACTER for character in text], ())])
    return found


def _adapted(name: str, most: int, run):
    """A registered decoder from a peer's plain function: checks, refusals and exact scores."""

    def decode(
        log_probs: np.ndarray,
        lengths: np.ndarray,
        beam: int = 50,
        nbest: int = 1,
        lm: PhoneLM | None = None,
        lm_weight: float = 0.0,
        length_bonus: float = 0.0,
    ) -> list[list[Hypothesis]]:
        refuse_language_model(name, nbest, most, lm, length_bonus)
        values, frames = check_batch(log_probs, np.asarray(lengths))
        for row, count in enumerate(frames):
            check_frames(values[row, :count], row)
        found = run(values, frames, beam, nbest)
        return [
            [scored(values[row, : frames[row]], tokens, places) for tokens, places in hypotheses]
            for row, hypotheses in enumerate(found)
        ]

    decode.__doc__ = run.__doc__
    return decode


if installed("ctcdecode"):
    DECODERS.register("ctcdecode")(_adapted("ctcdecode", 10**6, decode_with_ctcdecode))

if installed("flashlight.lib.text"):
    DECODERS.register("flashlight")(_adapted("flashlight", 10**6, decode_with_flashlight))

if installed("fast_ctc_decode"):

    def _fast(log_probs: np.ndarray, lengths: np.ndarray, beam: int, nbest: int) -> list[Found]:
        """fast-ctc-decode: one hypothesis an utterance."""
        return decode_with_fast_ctc_decode([np.exp(log_probs[i, :n]) for i, n in enumerate(lengths)], beam)

    DECODERS.register("fast_ctc_decode")(_adapted("fast_ctc_decode", 1, _fast))
