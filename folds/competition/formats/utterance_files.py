"""The layouts competitions have come in, each with its alphabet, header and row order; detected from the folder.

A format is one function that looks at a folder and answers a `Competition`, or None when the folder is not its own.
Nothing is packed here, and nothing is checked beyond names and numbers of files: features and labels are read one
utterance at a time by the cache.

Source: the handouts and starter code of the semesters.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from folds.competition.alphabets import F22, S22, Alphabet
from folds.competition.description import FORMATS, Competition, Utterances, _competition, _reordered
from folds.competition.npy_files import read_array
from registry.errors import InputError, and_more


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


