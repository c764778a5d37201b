"""Checks before our packages are imported: the working folder exists, no package is shadowed, and so on.

`python -m` and scripts import from the working folder first, so `from models import …` would read a user's own
models.py there. Such faults would end in a traceback, because the commands' error handling is not imported yet.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

OUR_PACKAGES = ("registry", "models", "folds", "ensemble", "submit")


def check_startup() -> None:
    """Check the working folder, the packages and environment variables; called when our first package is imported."""
    check_working_folder()
    check_packages()
    check_variables()


def check_working_folder() -> None:
    """Raise ImportError, or end a command with one line, if the working folder was deleted: some libraries need it."""
    try:
        os.getcwd()
    except OSError as error:
        _refuse(f"the working folder cannot be used ({error.strerror}): start in another one")


def check_packages(names: tuple[str, ...] = OUR_PACKAGES, root: Path = Path(__file__).parents[1]) -> None:
    """Raise ImportError, or end a command with one line, if a package would not be imported from `root`."""
    for name in names:
        found = _location(name)
        if found is not None and found.parent.resolve() != (root / name).resolve():
            _refuse(f"{found} hides the package {name} of {root}: rename it, or start in another folder")


def check_variables() -> None:
    """Raise ImportError, or end a command with one line, for a number of threads with which Numba fails to import."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1").strip()
    if threads.lstrip("-").isdecimal() and int(threads) < 1:
        _refuse(f"environment variable NUMBA_NUM_THREADS is {threads[:40]}: expected 1 or more, or unset")


def _refuse(message: str) -> NoReturn:
    if _in_command():
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


def _location(name: str) -> Path | None:
    """The file that `import name` reads; None if there is none, or if it is not a file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _in_command() -> bool:
    """Whether this process was started as `python -m` one of our modules."""
    arguments = sys.orig_argv
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    return module.partition(".")[0] in OUR_PACKAGES
