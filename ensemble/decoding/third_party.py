"""Third-party CTC beam decoders with our decoder interface, registered if their packages are installed.

Each also has a plain function, `decode_with_…`, with the package's own settings, for benchmarks. None of them supports
our language models (they expect KenLM files and words); the decoder `beam` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from ensemble.decoding.decoders import TokensAndFrames, collapse, register_acoustic_decoder

_FIRST_CHARACTER = 0x100  # these packages expect one character per label; from here on there are no control characters


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
) -> list[list[TokensAndFrames]]:
    """ctcdecode (a build of PyPI's ctcdecodeupd); each frame considers `top_n` tokens, by default all.

    If the search finds fewer than `nbest` hypotheses, ctcdecode appends empty ones.
    """
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
) -> list[list[TokensAndFrames]]:
    """flashlight-text, lexicon-free; `beam_token` tokens per frame, and prefixes within `threshold` of the best."""
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
    # There is no silence label besides the blank: with -1, no label gets a silence score.
    search = LexiconFreeDecoder(options, ZeroLM(), -1, 0, [])
    nbest_lists: list[list[TokensAndFrames]] = []
    for row, length in enumerate(lengths.tolist()):
        rows = np.ascontiguousarray(log_probs[row, :length], np.float32)  # the type that its pointer has there
        results = search.decode(rows.ctypes.data, length, classes)
        # A path has one token per frame, and one more at each end.
        nbest_lists.append([collapse(result.tokens[1 : length + 1]) for result in results[:nbest]])
    return nbest_lists


def decode_with_fast_ctc_decode(
    probs: Sequence[np.ndarray], beam: int, cut: float = 0.0
) -> list[list[TokensAndFrames]]:
    """fast-ctc-decode, one hypothesis per utterance.

    `probs` are probabilities `(T, C)` per utterance; tokens below `cut` in a frame are not considered.
    """
    import fast_ctc_decode

    characters = _characters(probs[0].shape[1]) if len(probs) else []
    nbest_lists: list[list[TokensAndFrames]] = []
    for rows in probs:
        # The returned frames are omitted: they are where the search first reached a label, not where the label is.
        text, _ = fast_ctc_decode.beam_search(rows, characters, beam_size=beam, beam_cut_threshold=cut)
        nbest_lists.append([([ord(character) - _FIRST_CHARACTER for character in text], ())])
    return nbest_lists


if installed("ctcdecode"):
    register_acoustic_decoder("ctcdecode", decode_with_ctcdecode)

if installed("flashlight.lib.text"):
    register_acoustic_decoder("flashlight", decode_with_flashlight)

if installed("fast_ctc_decode"):

    def _fast_ctc_decode(
        log_probs: np.ndarray, lengths: np.ndarray, beam: int, nbest: int
    ) -> list[list[TokensAndFrames]]:
        """fast-ctc-decode: one hypothesis per utterance."""
        return decode_with_fast_ctc_decode([np.exp(log_probs[i, :n]) for i, n in enumerate(lengths)], beam)

    register_acoustic_decoder("fast_ctc_decode", _fast_ctc_decode, max_nbest=1)
