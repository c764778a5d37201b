"""TODO"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from folds.competition.alphabets import F18, F20, Alphabet
from folds.competition.description import FORMATS, Competition, Utterances, _competition
from folds.competition.npy_files import array_length, read_ragged
from registry.errors import InputError


@FORMATS.register("F20-F21")
def f20(root: Path, allow_pickle: bool) -> Competition | None:
    """F20 to F21: train.npy, dev.npy, test.npy, train_labels.npy and dev_labels.npy, an element an utterance."""
    if not any((root / f"{split}.npy").is_file() for split in ("train", "dev")):
        return None
    # Labels index the course's phoneme list, whose place 0 is the blank.
    return _competition(
        root, "F20-F21", F20, ("id", "label"),
        _array_split("train", root, "train.npy", "train_labels.npy", F20, 1, allow_pickle),
        _array_split("dev", root, "dev.npy", "dev_labels.npy", F20, 1, allow_pickle),
        _array_split("test", root, "test.npy", None, F20, 1, allow_pickle),
    )


@FORMATS.register("F18-S20")
def f18(root: Path, allow_pickle: bool) -> Competition | None:
    """F18 to S20: wsj0_train, wsj0_dev.npy, wsj0_test and the wsj0_*_merged_labels.npy, an element an utterance."""
    if not any(_wsj(root, split) for split in ("train", "dev")):
        return None
    # Labels count from 0, and the list of phonemes has no blank: each is one class further on here.
    train, dev, test = (
        _array_split(
            split, root, _wsj(root, split) or f"wsj0_{split}.npy",
            None if split == "test" else f"wsj0_{split}_merged_labels.npy", F18, 0, allow_pickle,
        )
        for split in ("train", "dev", "test")
    )
    return _competition(root, "F18-S20", F18, ("Id", "Predicted"), train, dev, test)


def _wsj(root: Path, split: str) -> str | None:
    # Some semesters' files came without the ending, and one with its test features under another name.
    names = [f"wsj0_{split}.npy", f"wsj0_{split}", *(["transformed_test_data.npy"] if split == "test" else [])]
    return next((name for name in names if (root / name).is_file()), None)


def _array_split(
    name: str, root: Path, features: str, labels: str | None, alphabet: Alphabet, first: int, allow_pickle: bool
) -> Utterances:
    """A split in one array with an element an utterance; class 1 is written `first` in its labels."""
    for needed in filter(None, (features, labels)):
        if not (root / needed).is_file():
            raise InputError(f"no file {root / needed}: expected it beside the others; unzip the whole competition")
    count = array_length(root / features)
    if labels is not None and array_length(root / labels) != count:
        raise InputError(
            f"{root / labels}: {array_length(root / labels)} transcripts for the {count} utterances of {features}; "
            f"expected as many; download both again"
        )

    @functools.cache
    def whole(file: str) -> np.ndarray:
        return read_ragged(root / file, allow_pickle)

    def spoken(index: int) -> np.ndarray:
        element = np.asarray(whole(features)[index])
        # Utterances of equal length make an object array of single numbers.
        return element.astype(np.float32) if element.dtype.hasobject else element

    def classes(index: int) -> np.ndarray:
        element = whole(labels)[index]
        # Transcripts of equal length make an object array of single numbers.
        found = np.asarray(element.tolist() if isinstance(element, np.ndarray) else element)
        place, last = f"{root / labels}, utterance {index}", first + alphabet.classes - 2
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise InputError(
                f"{place}: found shape {found.shape} of {found.dtype}; expected a list of whole numbers; "
                f"download it again"
            )
        if (wrong := found[(found < first) | (found > last)]).size:
            raise InputError(
                f"{place}: label {wrong[0]}; expected {first} to {last}, the phonemes of {alphabet.name}; "
                f"download it again"
            )
        return (found + (1 - first)).astype(np.int16)

    return Utterances(
        name,
        # No dash: these semesters do not tell the speaker, so that each utterance counts as its own.
        tuple(f"{name}{index:06d}" for index in range(count)),
        (features,) if labels is None else (features, labels),
        lambda index: f"{root / features}, utterance {index}",
        spoken,
        classes if labels is not None else None,
    )
