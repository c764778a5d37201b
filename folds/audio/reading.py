"""Audio as the samples that front ends expect: one channel at 16 kHz, read in blocks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from folds.frontends.base import SAMPLE_RATE
from registry.errors import InputError, describe_os_error
from registry.files import check_regular

SUFFIXES = (".wav", ".flac")
"""Suffixes of the recordings in a folder; a file given by name may be anything that libsndfile reads."""
MIN_SECONDS = 0.1
"""A shorter recording holds no phoneme, and has too few frames for normalisation."""
_BLOCK_SECONDS = 10


@dataclass(frozen=True, eq=False)
class Audio:
    """An open recording, as a context manager; `blocks` reads it, once."""

    source: str
    """Its name in messages."""
    sample_rate: int
    """Samples per second as stored."""
    channels: int
    seconds: float
    _file: soundfile.SoundFile
    _stream: BinaryIO

    def __enter__(self) -> Audio:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._stream.close()

    @property
    def notes(self) -> list[str]:
        """Notes for the user on how it is read."""
        notes = []
        if self.channels > 1:
            notes.append(f"{self.source}: {self.channels} channels, mixed down to one")
        if self.sample_rate < SAMPLE_RATE:
            notes.append(
                f"{self.source}: {self.sample_rate} Hz, so there is nothing above {self.sample_rate // 2} Hz, where "
                f"models trained on {SAMPLE_RATE} Hz expect speech: expect more errors"
            )
        return notes

    def blocks(self) -> Iterator[np.ndarray]:
        """Samples `(S,)` float32 at 16 kHz, the mean of the channels, in blocks of about 10 seconds.

        Raises InputError for audio that is damaged, has NaN or infinite samples, or is silent from end to end.
        """
        resampler = None
        if self.sample_rate != SAMPLE_RATE:
            resampler = soxr.ResampleStream(self.sample_rate, SAMPLE_RATE, num_channels=1, dtype="float32")
        silent = True
        for samples in self._mono():
            silent = silent and not samples.any()
            yield samples if resampler is None else resampler.resample_chunk(samples)
        if silent:
            raise InputError(f"{self.source}: every sample is 0: expected speech; check the microphone or the export")
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mono(self) -> Iterator[np.ndarray]:
        """Blocks `(S,)` float32 at the stored sample rate."""
        done = 0
        while True:
            try:
                block = self._file.read(_BLOCK_SECONDS * self.sample_rate, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                where = f"{self.source}, after {done / self.sample_rate:.1f} s"
                raise InputError(f"{where}: damaged ({_reason(error)}): record, export or copy it again") from None
            if not len(block):
                return
            for bad in np.flatnonzero(~np.isfinite(block).all(axis=1))[:1]:
                raise InputError(
                    f"{self.source}, at {(done + bad) / self.sample_rate:.3f} s: the samples are NaN or infinite; "
                    "expected numbers from -1 to 1: export it again"
                )
            done += len(block)
            yield block[:, 0].copy() if block.shape[1] == 1 else block.mean(axis=1)


def open_audio(path: Path, source: str | None = None) -> Audio:
    """Open a recording in a format that libsndfile reads, such as wav and flac; `source` is its name in messages.

    Raises InputError for a file that cannot be read, is not audio, or is too short.
    """
    source = source or str(path)
    try:
        check_regular(path)
        stream = path.open("rb")
    except OSError as error:
        raise InputError(describe_os_error(error, source)) from None
    try:
        opened = soundfile.SoundFile(stream)
    except (soundfile.LibsndfileError, TypeError) as error:
        stream.close()
        # If the file's name says that it has no header, soundfile asks for its sample rate with a TypeError.
        reason = "no header" if isinstance(error, TypeError) else _reason(error)
        raise InputError(f"{source}: no audio ({reason}): expected wav, flac, or features in npy") from None
    audio = Audio(source, opened.samplerate, opened.channels, opened.frames / opened.samplerate, opened, stream)
    if audio.seconds < MIN_SECONDS:
        with audio:
            raise InputError(f"{source}: {audio.seconds:g} s of audio; expected at least {MIN_SECONDS} s of speech")
    return audio


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.rstrip(".")
