"""Detect a user's own file that Python imports instead of one of our packages, such as models.py beside the command.

`python -m` and scripts import from the working folder first, so `from models import …` would read that file.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

OUR_PACKAGES = ("registry", "models", "folds", "ensemble", "submit")


def check_packages(names: tuple[str, ...] = OUR_PACKAGES, root: Path = Path(__file__).parents[1]) -> None:
    """Raise ImportError if one of our packages would be imported from elsewhere than `root`.

    In a command, this is one line and exit status 2, because the command's own handling of errors is not there yet.
    """
    for name in names:
        found = _location(name)
        if found is None or found.parent.resolve() == (root / name).resolve():
            continue
        message = f"{found} hides the package {name} of {root}: rename it, or start the command in another folder"
        if _in_command():
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(message)


def _location(name: str) -> Path | None:
    """The file that `import name` reads, if there is one."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py
        places = list(spec.submodule_search_locations or ())
        return Path(places[0], "__init__.py") if places else None
    return Path(spec.origin)


def _in_command() -> bool:
    """Whether this process was started as `python -m` one of our modules."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in OUR_PACKAGES
