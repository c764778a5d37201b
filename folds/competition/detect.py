"""A competition's folder, opened: which format it has, its splits, its alphabet, its header and row order.

Formats register themselves in `FORMATS`, ours from `folds.formats`, others from the entry-point group `hw3p2_formats`;
this module holds the description they fill in. It keeps nothing in memory and writes nothing: packing is `folds.cache`.
"""

from __future__ import annotations

import os
from pathlib import Path

from folds.competition.description import FORMATS, Competition
from registry.errors import InputError

DATA_VARIABLE = "HW3P2_DATA"
DEMO_FOLDER = Path("demo/competition")






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
