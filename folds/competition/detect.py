"""Find a competition's folder and recognise its format."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from folds.competition.base import COMPETITIONS, Competition
from folds.competition.submission import sample_of
from registry.errors import InputError, one_line

DATA_VARIABLE = "HW3P2_DATA"
DEMO_FOLDER = Path("demo/competition")


def data_root(option: Path | None = None) -> Path:
    """The competition's folder: `option`, else the environment variable HW3P2_DATA, else the demo's folder.

    Raises InputError if that folder does not exist.
    """
    if option is not None:
        root, source = Path(option), "--data"
    elif os.environ.get(DATA_VARIABLE):
        root, source = Path(os.environ[DATA_VARIABLE]), DATA_VARIABLE
    else:
        root, source = DEMO_FOLDER, ""
    if root.is_dir():
        return root
    if source:
        raise InputError(f"{source}: no folder {root}: expected the competition's folder, unzipped")
    raise InputError(
        f"no competition folder: pass --data DIR, set {DATA_VARIABLE}, "
        f"or make the demo competition with `python -m folds.demo --out {DEMO_FOLDER}`"
    )


def open_competition(root: Path, allow_pickle: bool = False) -> Competition:
    """Detect the format of a folder and open it; reads file names and the sample file, but no features.

    The layout may be in `root` or in a folder inside it, depending on how the zip file was unpacked. `allow_pickle`
    permits the object arrays of Fall 2018 to Fall 2021; unpickling them can run arbitrary code. Raises InputError for a
    missing folder, an unknown layout, and features without a transcript or the reverse.

    >>> open_competition(Path("demo/competition")).format  # doctest: +SKIP
    'F22-S26'
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no folder {root}: expected the competition's folder, unzipped; check --data")
    if competitions := _recognised(root, allow_pickle):
        return _only(root, competitions)
    subfolders = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if competitions := [inner for folder in subfolders for inner in _recognised(folder, allow_pickle)]:
        competition = _only(root, competitions)
        if competition.sample is None and (sample := sample_of(root)) is not None:  # next to the layout's folder
            competition.follow(sample)
        return competition
    parent = root.resolve().parent
    if _recognised(parent, allow_pickle):
        raise InputError(f"{root}: is only a part of the competition in {parent}: pass that folder")
    summaries = {name: COMPETITIONS.entry(name).summary for name in COMPETITIONS.names()}
    layouts = "; ".join(f"{name}: {summary.split(': ', 1)[-1]}" for name, summary in summaries.items())
    raise InputError(f"{root}: no known layout in it; expected the folder that holds one of these: {layouts}")


def _recognised(root: Path, allow_pickle: bool) -> list[Competition]:
    """The competitions that recognise their layout in `root` itself."""
    competitions = []
    for name in COMPETITIONS.names():
        try:
            kind = COMPETITIONS.get(name)
            if not isinstance(kind, type) or not issubclass(kind, Competition):
                raise TypeError("it is not a subclass of Competition")
            if kind.recognises(root):
                competitions.append(kind(root, allow_pickle))
        except (InputError, OSError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # a plug-in's fault must not hide other formats
            if COMPETITIONS.is_built_in(name):
                raise
            print(f"warning: the format {name}, a plug-in, is left out: {one_line(error)}", file=sys.stderr)
    return competitions


def _only(root: Path, competitions: list[Competition]) -> Competition:
    if len(competitions) > 1:
        names = ", ".join(f"{competition.root} ({competition.format})" for competition in competitions)
        raise InputError(f"{root}: more than one competition in it: {names}; pass the folder that holds just one")
    return competitions[0]
