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
from folds.competition.description import FORMATS, Competition, SplitSource, describe_competition
from folds.competition.npy_files import array_length, as_numbers, read_ragged
from registry.errors import InputError


@FORMATS.register("F20-F21")
def f20(root: Path, allow_pickle: bool) -> Competition | None:
    """F20 to F21: train.npy, dev.npy, test.npy, train_labels.npy and dev_labels.npy, one element per utterance."""
    if not any((root / f"{split}.npy").is_file() for split in ("train", "dev")):
        return None
    # Labels index the course's list of phonemes, whose entry 0 is the blank.
    split = functools.partial(_split, root, alphabet=F20, first_label=1, allow_pickle=allow_pickle)
    return describe_competition(
        root,
        "F20-F21",
        F20,
        ("id", "label"),
        train=split("train", "train.npy", "train_labels.npy"),
        dev=split("dev", "dev.npy", "dev_labels.npy"),
        test=split("test", "test.npy", None),
    )


@FORMATS.register("F18-S20")
def f18(root: Path, allow_pickle: bool) -> Competition | None:
    """F18 to S20: wsj0_train, wsj0_dev.npy, wsj0_test and wsj0_*_merged_labels.npy, one element per utterance."""
    if not any(_wsj_file(root, split) for split in ("train", "dev")):
        return None
    # Labels count from 0, and the course's list of phonemes has no blank: class 1 is label 0.
    split = functools.partial(_split, root, alphabet=F18, first_label=0, allow_pickle=allow_pickle)
    return describe_competition(
        root,
        "F18-S20",
        F18,
        ("Id", "Predicted"),
        train=split("train", _wsj_file(root, "train") or "wsj0_train.npy", "wsj0_train_merged_labels.npy"),
        dev=split("dev", _wsj_file(root, "dev") or "wsj0_dev.npy", "wsj0_dev_merged_labels.npy"),
        test=split("test", _wsj_file(root, "test") or "wsj0_test.npy", None),
    )


def _wsj_file(root: Path, split: str) -> str | None:
    # Some semesters' files came without the ending, and one with its test features under another name.
    names = [f"wsj0_{split}.npy", f"wsj0_{split}", *(["transformed_test_data.npy"] if split == "test" else [])]
    return next((name for name in names if (root / name).is_file()), None)


def _split(
    root: Path,
    name: str,
    features_file: str,
    labels_file: str | None,
    *,
    alphabet: Alphabet,
    first_label: int,
    allow_pickle: bool,
) -> SplitSource:
    """A split in one array of features and one of labels, in which class 1 is written as `first_label`."""
    features_path = root / features_file
    labels_path = None if labels_file is None else root / labels_file
    for path in filter(None, (features_path, labels_path)):
        if not path.is_file():
            raise InputError(f"no file {path}: expected it beside the others; unzip the whole competition")
    count = array_length(features_path)
    if labels_path is not None and (transcripts := array_length(labels_path)) != count:
        raise InputError(
            f"{labels_path}: {transcripts} transcripts for the {count} utterances of {features_file}; "
            f"expected as many; download both again"
        )
    read = functools.cache(functools.partial(read_ragged, allow_pickle=allow_pickle))
    return SplitSource(
        name=name,
        # No dash, which would end a speaker's name: these semesters name none, so each utterance counts as its own.
        ids=tuple(f"{name}{index:06d}" for index in range(count)),
        files=(features_file,) if labels_file is None else (features_file, labels_file),
        location=lambda index: f"{features_path}, utterance {index}",
        features=lambda index: _features(read(features_path)[index], f"{features_path}, utterance {index}"),
        labels=None
        if labels_path is None
        else lambda index: _classes(
            read(labels_path)[index], f"{labels_path}, utterance {index}", alphabet, first_label
        ),
    )


def _features(element: Any, location: str) -> np.ndarray:
    """Features `(T, F)` of one utterance. Raises InputError for anything but numbers."""
    features = as_numbers(element, location, "floating-point features (frames, features)")
    # Utterances of equal length make an object array of single numbers.
    boxed = isinstance(element, np.ndarray) and element.dtype.hasobject
    with np.errstate(over="ignore"):  # infinity is refused later, with its place
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
