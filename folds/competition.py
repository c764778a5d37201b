"""A competition's folder, opened: which format it has, its splits, its alphabet, its header and row order.

Formats register themselves in `FORMATS`, ours from `folds.formats`, others from the entry-point group `hw3p2_formats`;
this module holds the description they fill in. It keeps nothing in memory and writes nothing: packing is `folds.cache`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.alphabets import Alphabet
from folds.submission import SampleFile
from registry.errors import InputError
from registry.registry import Registry

# A format looks at a folder (and at `allow_pickle`) and answers what it holds, or None when it is not its own.
FORMATS: Registry[Callable[[Path, bool], Competition | None]] = Registry("formats")
DATA_VARIABLE = "HW3P2_DATA"
DEMO_FOLDER = Path("demo/competition")


@dataclass(frozen=True)
class Utterances:
    """One split as it lies on the disk, in the order its rows have in the cache (test: the submission's order)."""

    name: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    """Every file the split is read from, relative to the root: the cache is keyed by names, sizes and times."""
    place: Callable[[int], str]
    """Where utterance `i` lies, for messages."""
    features: Callable[[int], np.ndarray]
    """Features of utterance `i` as found, unchecked."""
    labels: Callable[[int], np.ndarray] | None
    """Classes `(L,)` int16 of utterance `i`; None for a split without transcripts."""


@dataclass(frozen=True)
class Competition:
    """A folder in one of the registered formats."""

    root: Path
    format: str
    alphabet: Alphabet
    header: tuple[str, str]
    sample: SampleFile | None
    test_rows: tuple[str, ...]
    """Ids of the submission's rows, in the order of `test.ids`."""
    train: Utterances
    dev: Utterances
    test: Utterances

    @property
    def splits(self) -> tuple[Utterances, Utterances, Utterances]:
        return self.train, self.dev, self.test


def data_root(option: Path | None = None) -> Path:
    """The competition's folder: the option, else the environment's HW3P2_DATA, else the demo's folder.

    `InputError` when the folder so named does not exist, with what to do about it.
    """
    if option is not None:
        root, named = Path(option), "--data"
    elif os.environ.get(DATA_VARIABLE):
        root, named = Path(os.environ[DATA_VARIABLE]), DATA_VARIABLE
    else:
        root, named = DEMO_FOLDER, ""
    if root.is_dir():
        return root
    if named:
        raise InputError(f"{named}: no folder {root}: expected the competition's folder, unzipped")
    raise InputError(
        f"no competition's folder is named: give --data DIR or set {DATA_VARIABLE}, "
        f"or make the demo's with `python -m folds.demo --out {DEMO_FOLDER}`"
    )


def open_competition(root: Path, allow_pickle: bool = False) -> Competition:
    """Detect the format of a folder and describe it; reads names and the sample file, no features.

    The layout may lie in `root` or in a folder inside it, as the semesters' zip files unpack. `allow_pickle` admits the
    object arrays of the F18 to F21 formats, which can run any code when they are loaded. Raises `InputError` for a
    missing folder, an unknown layout, features without transcript or the reverse.
    """
    importlib.import_module("folds.formats")  # registers ours; it needs the classes of this module
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}: expected the competition's folder, unzipped; check --data")
    if found := _formats_of(root, allow_pickle):
        return _only(root, found)
    inside = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if found := [one for folder in inside for one in _formats_of(folder, allow_pickle)]:
        return _only(root, found)
    layouts = "; ".join(f"{name}: {FORMATS.entry(name).doc.split(': ', 1)[-1]}" for name in FORMATS.names())
    raise InputError(f"{root}: no known layout in it; expected the folder that holds one of these: {layouts}")


def _formats_of(root: Path, allow_pickle: bool) -> list[Competition]:
    return [found for name in FORMATS.names() if (found := FORMATS.get(name)(root, allow_pickle)) is not None]


def _only(root: Path, found: list[Competition]) -> Competition:
    if len(found) > 1:
        names = ", ".join(f"{one.root} ({one.format})" for one in found)
        raise InputError(f"{root}: more than one competition in it: {names}; give the folder of one, with nothing else")
    return found[0]
