"""Inputs to transcribe: files, folders and standard input, with audio or with features as in a competition."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from folds.audio.reading import SUFFIXES, Audio, open_audio
from folds.competition.npy_files import read_array
from folds.data.validation import checked_features
from registry.errors import InputError

STANDARD_INPUT = "-"
NPY = ".npy"
_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Source:
    """One recording, or the features of one."""

    name: str
    """The name of its transcript: the file name without its extension, or `stdin`."""
    path: Path
    where: str
    """How messages refer to it."""
    is_features: bool

    def audio(self) -> Audio:
        """The recording, opened. Raises InputError for one that cannot be transcribed."""
        return open_audio(self.path, self.where)

    def features(self) -> np.ndarray:
        """Features `(T, F)`. Raises InputError for a file that holds anything else."""
        array = read_array(self.path)
        if array.ndim == 1:
            raise InputError(
                f"{self.where}: an array {array.shape}; expected features (T, F): samples are read from wav or flac, "
                "which have a sample rate"
            )
        return checked_features(array, self.where)


def find_sources(arguments: Sequence[str], scratch: Path) -> list[Source]:
    """The recordings named by the command's arguments, in order; those of a folder are sorted by path.

    Standard input is copied to the folder `scratch`, because audio is read from seekable files. Raises InputError for
    a folder without recordings, and for two recordings whose transcripts would have the same name.
    """
    sources: list[Source] = []
    for argument in dict.fromkeys(arguments):
        if argument == STANDARD_INPUT:
            sources.append(_from_standard_input(sys.stdin.buffer, scratch))
        elif Path(argument).is_dir():
            sources += _in_folder(Path(argument))
        else:
            sources.append(_of_file(Path(argument)))
    by_name: dict[str, Source] = {}
    for source in sources:
        other = by_name.setdefault(source.name, source)
        if other is not source:
            raise InputError(
                f"{other.where} and {source.where}: both transcripts would be named {source.name}: transcribe them in "
                "two calls"
            )
    return sources


def _of_file(path: Path) -> Source:
    return Source(path.stem, path, str(path), path.suffix.lower() == NPY)


def _in_folder(folder: Path) -> list[Source]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*SUFFIXES, NPY) and path.is_file())
    if not found:
        raise InputError(f"{folder}: no recording in this folder; expected files that end in .wav, .flac or .npy")
    return [_of_file(path) for path in found]


def _from_standard_input(stream: BinaryIO, scratch: Path) -> Source:
    path = scratch / "standard input"
    with path.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    with path.open("rb") as file:
        is_features = file.read(len(_NPY_MAGIC)) == _NPY_MAGIC
    return Source("stdin", path, "standard input", is_features)


def open_all(sources: Sequence[Source]) -> Iterator[str]:
    """Open every source once, so that a faulty one is reported before the first is transcribed; yields notes."""
    for source in sources:
        if source.is_features:
            source.features()
            continue
        with source.audio() as audio:
            yield from audio.notes
