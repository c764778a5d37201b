"""A typed registry over `catalogue`: in-tree things found by importing a package, plug-ins by an entry-point group.

What catalogue leaves open is settled here: an unknown name suggests near ones, a duplicate name is an error that names
both places (catalogue overwrites silently), in-tree names win over plug-ins (in catalogue it is the other way round),
and a plug-in that fails to import is listed as broken and breaks nothing else. It knows nothing of what it holds.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import catalogue

from registry.errors import InputError

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What is known of a registered thing: its name, where its code stands, its first line of documentation."""

    name: str
    place: str
    doc: str
    info: Mapping[str, Any] = field(default_factory=dict)


class Registry(Generic[T]):
    """Things of one kind, by name.

    `package` is imported module by module at the first look-up, so adding a thing is adding a file. `group` is the
    entry-point group under which installed plug-ins offer theirs; by default `hw3p2_<kind>`.

    >>> GREETERS = Registry("greeters")
    >>> @GREETERS.register("hello")
    ... def hello(name: str) -> str:
    ...     return f"hello {name}"
    >>> GREETERS.get("hello")("you")
    'hello you'
    """

    def __init__(self, kind: str, package: str | None = None, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"hw3p2_{kind}"
        self._package = package
        self._catalogue = catalogue.create("hw3p2", kind)
        self._entries: dict[str, Entry] = {}
        self._broken: dict[str, str] = {}
        self._discovered = False

    def register(self, name: str, **info: Any) -> Callable[[T], T]:
        """Register the decorated callable under `name`; `info` is handed back by `entry(name).info`.

        Raises ValueError when the name is taken by another piece of code, naming both places.
        """

        def decorate(thing: T) -> T:
            place = _place(thing)
            taken = self._entries.get(name)
            # The same source line again is the same definition seen twice (`python -m` imports a module as __main__).
            if taken is not None and taken.place != place:
                raise ValueError(
                    f"{self.kind}: the name '{name}' is registered twice, at {taken.place} and at {place}: rename one"
                )
            doc = (inspect.getdoc(thing) or "").strip().split("\n")[0]
            self._entries[name] = Entry(name, place, doc, info)
            self._catalogue.register(name, func=thing)
            return thing

        return decorate

    def get(self, name: str) -> T:
        """The thing registered under `name`. Raises InputError with near names when there is none."""
        self.entry(name)
        return self._catalogue.get(name)

    def entry(self, name: str) -> Entry:
        """What is known of `name`. Raises InputError as `get` does."""
        self._discover()
        if name in self._entries:
            return self._entries[name]
        if name in self._broken:
            raise InputError(f"{self.kind}: the plug-in '{name}' does not load: {self._broken[name]}")
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(self._entries))}"
        raise InputError(f"{self.kind}: there is no '{name}'; {hint}")

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a glob, sorted."""
        self._discover()
        return sorted(name for name in self._entries if fnmatch.fnmatchcase(name, pattern))

    def broken(self) -> dict[str, str]:
        """Plug-ins that failed to load, each with the reason."""
        self._discover()
        return dict(self._broken)

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("__"):
                    importlib.import_module(f"{self._package}.{module.name}")
        in_tree = set(self._entries)
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name in in_tree:
                self._broken[f"{point.name} ({point.value})"] = "the name is taken by one of our own, which wins"
                continue
            try:
                thing = point.load()
                # Loading usually runs the plug-in's own @register; a bare function is registered for it.
                if point.name not in self._entries:
                    self.register(point.name)(thing)
            except Exception as error:  # noqa: BLE001 - whatever a plug-in throws must not break ours
                self._broken[point.name] = f"{type(error).__name__}: {error}"


def _place(thing: Callable[..., Any]) -> str:
    try:
        source = inspect.getsourcefile(thing)
        return f"{source}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', thing)}"
