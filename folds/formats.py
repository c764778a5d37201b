"""The layouts competitions have come in, each with its alphabet, header and row order; detected from the folder.

A format is one function that looks at a folder and answers a `Competition`, or None when the folder is not its own.
Nothing is packed here, and nothing is checked beyond names and numbers of files: features and labels are read one
utterance at a time by the cache.

Source: the handouts and starter code of the semesters.
"""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from folds.alphabets import F18, F20, F22, S22, Alphabet
from folds.arrays import array_length, read_array, read_ragged
from folds.checks import and_more
from folds.competition import FORMATS, Competition, Utterances
from folds.submission import SampleFile, sample_of
from registry.errors import InputError


@FORMATS.register("F22-S26")
def f22(root: Path, allow_pickle: bool) -> Competition | None:
    """F22 to S26: train-clean-100, dev-clean and test-clean with a .npy an utterance in mfcc/ and transcript/."""
    train = sorted(path.name for path in root.glob("train-clean-*") if path.is_dir())
    if not train and not (root / "dev-clean").is_dir() and not (root / "test-clean").is_dir():
        return None
    test = _file_split("test", root, ["test-clean"], None)
    return _competition(
        root, "F22-S26", F22, ("index", "label"),
        _file_split("train", root, train or ["train-clean-100"], F22),
        _file_split("dev", root, ["dev-clean"], F22),
        test,
    )


@FORMATS.register("S22")
def s22(root: Path, allow_pickle: bool) -> Competition | None:
    """S22: train, dev and test with a .npy an utterance in mfcc/ and transcript/, rows as in test/test_order.csv."""
    if not any((root / split / "mfcc").is_dir() for split in ("train", "dev", "test")):
        return None
    test = _file_split("test", root, ["test"], None)
    return _competition(
        root, "S22", S22, ("id", "predictions"),
        _file_split("train", root, ["train"], S22),
        _file_split("dev", root, ["dev"], S22),
        _reordered(test, _listed_order(root / "test" / "test_order.csv", test)),
    )


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


def _competition(
    root: Path, name: str, alphabet: Alphabet, header: tuple[str, str],
    train: Utterances, dev: Utterances, test: Utterances,
) -> Competition:
    """Fill in what the sample file settles: header and rows are its own where there is one."""
    sample = sample_of(root)
    rows = tuple(map(str, range(len(test.ids))))
    if sample is not None:
        test, rows, header = _reordered(test, _sample_order(sample, rows)), sample.ids, sample.header
    return Competition(root, name, alphabet, header, sample, rows, train, dev, test)


def _sample_order(sample: SampleFile, rows: Sequence[str]) -> list[int]:
    """Which test utterance each row of the sample is: its ids are 0-based places in the order of the test split."""
    place = {row: index for index, row in enumerate(rows)}
    if len(sample.ids) != len(rows) or set(sample.ids) != set(rows):
        odd = next((row for row in sample.ids if row not in place), None)
        found = f"{len(sample.ids)} rows" + (f", one with the id {odd!r}" if odd is not None else "")
        raise InputError(
            f"{sample.path}: {found}, for {len(rows)} test utterances; expected the ids 0 to {len(rows) - 1}, each "
            f"once; unzip the whole competition again"
        )
    return [place[row] for row in sample.ids]


def _listed_order(path: Path, test: Utterances) -> list[int]:
    """Which test utterance each line of S22's list names; the list has a header and names files."""
    try:
        rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")) if row]
    except OSError:
        raise InputError(f"no file {path}: it alone tells the order of the submission's rows; download it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not UTF-8 CSV ({error}); expected a header and file names; download it") from None
    names = [row[0].removesuffix(".npy") for row in rows[1:]]
    place = {utterance: index for index, utterance in enumerate(test.ids)}
    if odd := sorted(set(names) ^ set(place)):
        raise InputError(
            f"{path}: {odd[0]} is named there or lies in mfcc/, but not both{and_more(len(odd) - 1)}; "
            f"expected each test utterance once; unzip the whole competition again"
        )
    if len(names) != len(place):
        raise InputError(f"{path}: {len(names)} lines for {len(place)} utterances; expected each once; download it")
    return [place[name] for name in names]


def _reordered(split: Utterances, order: Sequence[int]) -> Utterances:
    if list(order) == list(range(len(split.ids))):
        return split
    return Utterances(
        split.name, tuple(split.ids[index] for index in order), split.files,
        lambda row: split.place(order[row]), lambda row: split.features(order[row]), None,
    )


def _file_split(name: str, root: Path, folders: Sequence[str], alphabet: Alphabet | None) -> Utterances:
    """A split with a file an utterance, sorted by name whatever the disk's order; with transcripts if `alphabet`."""
    features: list[str] = []
    transcripts: list[str] = []
    for folder in folders:
        spoken = f"{folder}/mfcc"
        names = _names(root, spoken)
        features += [f"{spoken}/{each}" for each in names]
        if alphabet is not None:
            written = _transcript_folder(root, folder)
            _paired(root, spoken, names, written, _names(root, written))
            transcripts += [f"{written}/{each}" for each in names]
    ids = tuple(path.rsplit("/", 1)[1].removesuffix(".npy") for path in features)
    if len(set(ids)) != len(ids):
        twice = next(each for each in sorted(ids) if ids.count(each) > 1)
        raise InputError(f"{root}: utterance {twice} lies in more than one of {', '.join(folders)}; remove one of them")

    def labels(index: int) -> np.ndarray:
        path = root / transcripts[index]
        array = read_array(path)
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise InputError(
                f"{path}: found shape {array.shape} of {array.dtype}; expected a list of strings, [SOS] [SIL] … [EOS]; "
                f"download it again"
            )
        try:
            return alphabet.encode(array.astype(str).tolist())
        except InputError as error:
            raise InputError(f"{path}: {error}; mend the file or remove the utterance") from None

    return Utterances(
        name, ids, (*features, *transcripts),
        lambda index: str(root / features[index]),
        lambda index: read_array(root / features[index]),
        labels if alphabet is not None else None,
    )


def _names(root: Path, folder: str) -> list[str]:
    """Names of the `.npy` files of a folder, sorted; other files are no one's business."""
    path = root / folder
    if not path.is_dir():
        raise InputError(f"no folder {path}: expected .npy files in it; unzip the whole competition")
    names = sorted(name for name in os.listdir(path) if name.endswith(".npy") and not name.startswith("."))
    if not names:
        raise InputError(f"{path}: no .npy files in it; expected one for each utterance; unzip the whole competition")
    return names


def _transcript_folder(root: Path, folder: str) -> str:
    """`transcript/`, or the folder inside it where a semester kept both the raw and the processed ones."""
    inside = [f"{folder}/transcript/raw", f"{folder}/transcript/processed"]
    return next((each for each in inside if (root / each).is_dir()), f"{folder}/transcript")


def _paired(root: Path, spoken: str, names: Sequence[str], written: str, transcripts: Sequence[str]) -> None:
    for have, here, lack, there in ((names, spoken, transcripts, written), (transcripts, written, names, spoken)):
        if lonely := sorted(set(have) - set(lack)):
            what = "transcript" if lack is transcripts else "features"
            raise InputError(
                f"{root / here / lonely[0]}: no {what} for it{and_more(len(lonely) - 1, 'without')}; "
                f"expected a file of the same name in {root / there}; add it, or remove this one"
            )


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
