"""Attribute exceptions to plug-ins: a plug-in that fails is named, and not reported as a bug of ours.

Registries record the modules of entries from outside their own package, and a command that ends with an exception
looks for these modules in the traceback.
"""

from __future__ import annotations

import traceback

_OWNERS: dict[str, list[str]] = {}
_MOST_NAMED = 3


def note_plug_in(module: str, what: str) -> None:
    """Remember that `module` has registered `what`, for example "blender 'mine'"."""
    owned = _OWNERS.setdefault(module, [])
    if what not in owned:
        owned.append(what)


def plug_in_of(error: BaseException) -> tuple[str, str] | None:
    """Which plug-in raised an exception, and where: "blender 'mine'" and "/home/me/mine.py:12". None if none did.

    The innermost frame in a plug-in's module counts, and all modules of a plug-in's package are its own. A module that
    registered several entries is named after the first ones.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        same_package = (names for owner, names in _OWNERS.items() if _root(owner) == _root(module))
        names = _OWNERS.get(module) or next(same_package, None)
        if names:
            return ", ".join(names[:_MOST_NAMED]), f"{frame.f_code.co_filename}:{line}"
    return None


def _root(module: str) -> str:
    return module.partition(".")[0]
