"""The formats of F18 to F21: one array per split with one element per utterance, and no speakers.

Most of these files are object arrays, which are pickles: they are loaded only with `allow_pickle`.

Source: the handouts and starter code of those semesters.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from folds.competition.alphabets import F18, F20, Alphabet
from folds.competition.base import COMPETITIONS, Competition, SplitSource
from folds.competition.npy_files import array_length, as_numbers, read_ragged
from registry.errors import InputError


@COMPETITIONS.register("F20-F21")
class F20ToF21(Competition):
    """F20 to F21: train.npy, dev.npy, test.npy, train_labels.npy and dev_labels.npy, one element per utterance."""

    alphabet = F20
    columns = ("id", "label")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any((root / f"{split}.npy").is_file() for split in ("train", "dev"))

    def read(self, split: str) -> SplitSource:
        # Labels are indices into the course's list of phonemes, whose entry 0 is the blank.
        return _split(self, split, f"{split}.npy", f"{split}_labels.npy", first_label=1)


@COMPETITIONS.register("F18-S20")
class F18ToS20(Competition):
    """F18 to S20: wsj0_train, wsj0_dev.npy, wsj0_test and wsj0_*_merged_labels.npy, one element per utterance."""

    alphabet = F18
    columns = ("Id", "Predicted")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any(_wsj_file(root, split) for split in ("train", "dev"))

    def read(self, split: str) -> SplitSource:
        # Labels start at 0, and the course's list of phonemes has no blank: label 0 is class 1.
        file = _wsj_file(self.root, split) or f"wsj0_{split}.npy"
        return _split(self, split, file, f"wsj0_{split}_merged_labels.npy", first_label=0)


def _wsj_file(root: Path, split: str) -> str | None:
    # In some semesters the files came without an extension, and in one the test features had another name.
    names = [f"wsj0_{split}.npy", f"wsj0_{split}", *(["transformed_test_data.npy"] if split == "test" else [])]
    return next((name for name in names if (root / name).is_file()), None)


def _split(competition: Competition, name: str, features: str, labels: str, first_label: int) -> SplitSource:
    """A split stored as one array of features and, except for test, one of labels; class 1 is stored as `first_label`.
    """
    files = (features,) if name == "test" else (features, labels)
    features_path, labels_path = competition.root / features, competition.root / labels
    for file in files:
        if not (competition.root / file).is_file():
            raise InputError(
                f"no file {competition.root / file}: expected it beside the others; unzip the whole competition"
            )
    count = array_length(features_path)
    if name != "test" and (transcripts := array_length(labels_path)) != count:
        raise InputError(
            f"{labels_path}: {transcripts} transcripts for the {count} utterances of {features}; "
            f"expected as many; download both again"
        )
    read = functools.cache(functools.partial(read_ragged, allow_pickle=competition.allow_pickle))

    def labels_of(index: int) -> np.ndarray:
        location = f"{labels_path}, utterance {index}"
        return _classes(read(labels_path)[index], location, competition.alphabet, first_label)

    return SplitSource(
        name=name,
        # No dash, which would end a speaker's name: these semesters name none, so each utterance is its own group.
        ids=tuple(f"{name}{index:06d}" for index in range(count)),
        files=files,
        location=lambda index: f"{features_path}, utterance {index}",
        features=lambda index: _features(read(features_path)[index], f"{features_path}, utterance {index}"),
        labels=None if name == "test" else labels_of,
        close=read.cache_clear,
    )


def _features(element: Any, location: str) -> np.ndarray:
    """Features `(T, F)` of one utterance. Raises InputError for anything but numbers."""
    features = as_numbers(element, location, "floating-point features (frames, features)")
    # NumPy turns utterances of equal length into an object array of single numbers.
    boxed = isinstance(element, np.ndarray) and element.dtype.hasobject
    with np.errstate(over="ignore"):  # infinities are rejected later, with their location
        return features.astype(np.float32) if boxed and features.dtype.kind == "f" else features


def _classes(element: Any, location: str, alphabet: Alphabet, first_label: int) -> np.ndarray:
    """Classes `(L,)` int16 of one transcript. Raises InputError for labels that are not the alphabet's numbers."""
    labels = as_numbers(element, location, "a list of whole numbers")
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise InputError(
            f"{location}: found shape {labels.shape} of {labels.dtype}; expected a list of whole numbers; "
            f"download it again"
        )
    last_label = first_label + alphabet.classes - 2
    if (unknown := labels[(labels < first_label) | (labels > last_label)]).size:
        raise InputError(
            f"{location}: label {unknown[0]}; expected {first_label} to {last_label}, the phonemes of {alphabet.name}; "
            f"download it again"
        )
    return (labels + (1 - first_label)).astype(np.int16)
