"""The formats with one `.npy` file per utterance: S22, and F22 to S26.

Only file names and counts are checked here; features and labels are read later, one utterance at a time.

Source: the handouts and starter code of those semesters.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from folds.competition.alphabets import F22, S22, Alphabet
from folds.competition.base import COMPETITIONS, SPLITS, Competition, SplitSource
from folds.competition.npy_files import read_array
from registry.errors import InputError, and_more
from registry.files import check_regular


@COMPETITIONS.register("F22-S26")
class F22ToS26(Competition):
    """F22 to S26: train-clean-100, dev-clean and test-clean with one .npy per utterance in mfcc/ and transcript/."""

    alphabet = F22
    columns = ("index", "label")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        patterns = "train-clean-*", "dev-clean", "test-clean"
        return any(path.is_dir() for pattern in patterns for path in root.glob(pattern))

    def read(self, split: str) -> SplitSource:
        parts = sorted(path.name for path in self.root.glob("train-clean-*") if path.is_dir())
        return _split(self, split, (parts or ["train-clean-100"]) if split == "train" else [f"{split}-clean"])


@COMPETITIONS.register("S22")
class Spring2022(Competition):
    """S22: train, dev and test with one .npy per utterance in mfcc/ and transcript/, rows as in test/test_order.csv."""

    alphabet = S22
    columns = ("id", "predictions")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return any((root / split / "mfcc").is_dir() for split in SPLITS)

    def read(self, split: str) -> SplitSource:
        source = _split(self, split, [split])
        listed = self.root / "test" / "test_order.csv"
        return source.reordered(_listed_order(listed, source)) if split == "test" else source


def _listed_order(path: Path, test: SplitSource) -> list[int]:
    """The test utterance that each line of S22's list names; the list has a header and names files."""
    try:
        check_regular(path)
        table = pd.read_csv(
            path, usecols=[0], index_col=False, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except OSError:
        raise InputError(f"no file {path}: only it has the order of the submission's rows; download it") from None
    except (ValueError, OverflowError) as error:  # pandas' errors are ValueErrors too
        raise InputError(f"{path}: not UTF-8 CSV ({error}); expected a header and file names; download it") from None
    names = table.iloc[:, 0].str.removesuffix(".npy").tolist()
    position = {utterance: index for index, utterance in enumerate(test.ids)}
    if unmatched := sorted(set(names) ^ set(position)):
        raise InputError(
            f"{path}: {unmatched[0]} is in this list or in mfcc/, but not in both{and_more(len(unmatched) - 1)}; "
            f"expected each test utterance once; unzip the whole competition again"
        )
    if len(names) != len(position):
        raise InputError(f"{path}: {len(names)} lines for {len(position)} utterances; expected each once; download it")
    return [position[name] for name in names]


def _split(competition: Competition, name: str, folders: Sequence[str]) -> SplitSource:
    """A split of `folders`, sorted by file name regardless of directory order; all but test have transcripts."""
    root, alphabet, labelled = competition.root, competition.alphabet, name != "test"
    features: list[str] = []
    transcripts: list[str] = []
    for folder in folders:
        names = _npy_names(root, f"{folder}/mfcc")
        features += [f"{folder}/mfcc/{file}" for file in names]
        if labelled:
            transcript_folder = _transcript_folder(root, folder)
            _check_pairs(root, f"{folder}/mfcc", names, transcript_folder, _npy_names(root, transcript_folder))
            transcripts += [f"{transcript_folder}/{file}" for file in names]
    ids = tuple(path.rsplit("/", 1)[1].removesuffix(".npy") for path in features)
    repeated = sorted(utterance for utterance, count in Counter(ids).items() if count > 1)
    if repeated:
        raise InputError(f"{root}: utterance {repeated[0]} is in more than one of {', '.join(folders)}; remove one")
    return SplitSource(
        name=name,
        ids=ids,
        files=(*features, *transcripts),
        location=lambda index: str(root / features[index]),
        features=lambda index: read_array(root / features[index]),
        labels=(lambda index: _labels(root / transcripts[index], alphabet)) if labelled else None,
    )


def _labels(path: Path, alphabet: Alphabet) -> np.ndarray:
    """Classes `(L,)` int16 of a transcript file. Raises InputError for anything but a list of known phonemes."""
    array = read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise InputError(
            f"{path}: found shape {array.shape} of {array.dtype}; expected a list of strings, [SOS] [SIL] … [EOS]; "
            f"download it again"
        )
    try:
        phonemes = array.astype(str).tolist()
    except ValueError:  # bytes that are not ASCII, or invalid code points
        raise InputError(f"{path}: its strings cannot be decoded; expected ASCII; download it again") from None
    try:
        return alphabet.encode(phonemes)
    except InputError as error:
        raise InputError(f"{path}: {error}; correct the file or remove the utterance") from None


def _npy_names(root: Path, folder: str) -> list[str]:
    """Names of the `.npy` files of a folder, sorted; other files are ignored."""
    path = root / folder
    if not path.is_dir():
        raise InputError(f"no folder {path}: expected .npy files in it; unzip the whole competition")
    names = sorted(name for name in os.listdir(path) if name.endswith(".npy") and not name.startswith("."))
    if not names:
        raise InputError(f"{path}: no .npy files in it; expected one per utterance; unzip the whole competition")
    return names


def _transcript_folder(root: Path, folder: str) -> str:
    """`transcript/`, or the right subfolder if a semester kept both raw and processed transcripts."""
    subfolders = [f"{folder}/transcript/raw", f"{folder}/transcript/processed"]
    return next((subfolder for subfolder in subfolders if (root / subfolder).is_dir()), f"{folder}/transcript")


def _check_pairs(
    root: Path, features_folder: str, features: Sequence[str], transcript_folder: str, transcripts: Sequence[str]
) -> None:
    """Raise InputError for features without a transcript, then for transcripts without features."""
    for folder, unpaired, what, other_folder in (
        (features_folder, set(features) - set(transcripts), "transcript", transcript_folder),
        (transcript_folder, set(transcripts) - set(features), "features", features_folder),
    ):
        if unpaired:
            raise InputError(
                f"{root / folder / min(unpaired)}: no {what} for it{and_more(len(unpaired) - 1, 'without')}; "
                f"expected a file of the same name in {root / other_folder}; add it, or remove this one"
            )
