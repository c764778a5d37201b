"""A competition's folder, opened: which format it has, its splits, its alphabet, its header and row order.

Formats register themselves in `folds.formats`; this module holds what they share: the description they fill in and the
one careful way a `.npy` file is read. It keeps nothing in memory and writes nothing: packing is `folds.cache`.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.alphabets import Alphabet
from folds.submission import SampleFile
from registry.errors import InputError

DATA_VARIABLE = "HW3P2_DATA"
DEMO_FOLDER = Path("demo/competition")


@dataclass(frozen=True)
class Utterances:
    """One split as it lies on the disk, in the order its rows have in the cache (test: the submission's order)."""

    name: str
    ids: tuple[str, ...]
    files: tuple[Path, ...]
    """Every file the split is read from: the cache is keyed by their names, sizes and times."""
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
        f"or make the demo's with `python -m folds.demo --out {DEMO_FOLDER.parent}`"
    )


def open_competition(root: Path, allow_pickle: bool = False) -> Competition:
    """Detect the format of a folder and describe it; reads names and the sample file, no features.

    `allow_pickle` admits the object arrays of the F18 to F21 formats, which can run any code when they are loaded.
    Raises `InputError` for a missing folder, an unknown layout, features without transcript or the reverse.
    """
    from folds.formats import detect  # the formats need the classes of this module

    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}: expected the competition's folder, unzipped; check --data")
    return detect(root, allow_pickle)


def read_array(path: Path) -> np.ndarray:
    """Read one `.npy` file whole, never through pickle. `InputError` when it is torn, an object array or no `.npy`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a .npy file") from None
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](stream)
    except (ValueError, KeyError, EOFError):
        raise InputError(f"{path}: not a .npy file, or a damaged one; copy or download it again") from None
    if dtype.hasobject:
        raise InputError(
            f"{path}: an object array: loading it would run pickled code; expected plain numbers or strings, "
            f"save it again with a plain dtype"
        )
    count = math.prod(shape)
    if len(data) - stream.tell() < count * dtype.itemsize:
        raise InputError(
            f"{path}: truncated: {len(data) - stream.tell()} bytes of data where shape {shape} of {dtype} "
            f"needs {count * dtype.itemsize}; copy or download it again"
        )
    array = np.frombuffer(data, dtype=dtype, count=count, offset=stream.tell())
    return array.reshape(shape, order="F" if fortran else "C")
