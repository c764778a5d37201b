"""A typed registry over `catalogue`: built-in entries are found by importing a package, plug-ins by their entry points.

It adds what catalogue lacks. The error for an unknown name suggests similar ones. A duplicate name is an error that
gives both locations (catalogue overwrites silently). Built-in entries take precedence over plug-ins (the reverse of
catalogue). A file or plug-in that fails to import is listed as broken and affects no other entry.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib
import importlib.metadata
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Generic, TypeVar

import catalogue

from registry.errors import InputError, PlugInError, and_more, is_out_of_memory, one_line
from registry.plug_ins import note_plug_in, plug_in_of
from registry.startup import OUR_PACKAGES

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What is registered under a name, without the object itself."""

    name: str
    location: str
    """Where the code is, `file:line`."""
    object_path: str
    """The object in entry-point notation, `module:qualname`."""
    summary: str
    """First line of the docstring."""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.object_path.partition(":")[0]


class Registry(Generic[T]):
    """Callables of one kind, by name.

    `package` is imported module by module on the first look-up, so adding an entry means adding a file. `group` is the
    entry-point group in which installed packages offer plug-ins; by default `hw3p2_<kind>`.

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
        """Register the decorated callable under `name`; `entry(name).info` returns `info`.

        Raises ValueError with both locations if other code uses the name. A built-in entry replaces a plug-in of the
        same name; the plug-in is listed in `broken()`.
        """
        if not isinstance(name, str):
            raise TypeError(f"{self.kind}: the name is missing: write @register('name') above {_location(name)}")

        def decorate(registered: T) -> T:
            if not callable(registered):
                kind = type(registered).__name__
                raise TypeError(f"{self.kind}: '{name}' is a {kind}: register a function or a class")
            summary = (inspect.getdoc(registered) or "").strip().split("\n")[0]
            entry = Entry(name, _location(registered), _object_path(registered), summary, info)
            self._resolve_name_conflict(entry)
            self._entries[name] = entry
            self._catalogue.register(name, func=registered)
            if _root(entry.module) not in OUR_PACKAGES:
                note_plug_in(entry.module, self._described(name))
            return registered

        return decorate

    def get(self, name: str) -> T:
        """The callable registered under `name`. Raises InputError with similar names if there is none."""
        self.entry(name)
        return self._catalogue.get(name)

    def entry(self, name: str) -> Entry:
        """The description of `name`. Raises InputError like `get`."""
        self._discover()
        if name in self._entries:
            return self._entries[name]
        if name in self._broken:
            raise InputError(f"{self.kind}: the plug-in '{name}' failed to import: {self._broken[name]}")
        similar = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        available = ", ".join(sorted(self._entries)) or "none"
        hint = f"did you mean {_any_of(similar)}?" if similar else f"available: {available}"
        raise InputError(f"unknown {self._described(name)}; {hint}{self.broken_note()}")

    def is_built_in(self, name: str) -> bool:
        """Whether `name` is an entry of our own package rather than a plug-in. Raises InputError like `get`."""
        return self._is_our_own(self.entry(name).module)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """If `name` is a plug-in, turn exceptions within the block into a PlugInError.

        For calling an entry and for the first use of its result, which fails in our code if it has the wrong type.
        InputError and errors of the operating system or of memory are not bugs, and are re-raised unchanged.
        """
        try:
            yield
        except (InputError, OSError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            if self.is_built_in(name) or is_out_of_memory(error):
                raise
            _, place = plug_in_of(error) or ("", self.entry(name).location)
            raise PlugInError(f"{self._described(name)} ({place}): {one_line(error)}") from error

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names that match a glob, sorted."""
        self._discover()
        return sorted(name for name in self._entries if fnmatch.fnmatchcase(name, pattern))

    def broken(self) -> dict[str, str]:
        """Files and plug-ins that failed to import or are replaced by a built-in entry, with the reason."""
        self._discover()
        return dict(self._broken)

    def broken_note(self) -> str:
        """Suffix for unknown-name errors: the first module that failed to import, since it may define the name."""
        files = {label: reason for label, reason in self.broken().items() if label.endswith(".py")}
        lines = [f"; {label} failed to import: {reason}" for label, reason in files.items()]
        return "".join(lines[:1]) + and_more(len(lines) - 1)

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._entries

    def _resolve_name_conflict(self, entry: Entry) -> None:
        """List an existing plug-in of the same name as broken. Raises ValueError if neither entry takes precedence."""
        taken = self._entries.get(entry.name)
        # The same line again is the same definition (`python -m` imports a module a second time, as __main__), and
        # running a notebook cell again redefines the same function.
        redefined = taken is not None and entry.module == "__main__" and taken.object_path == entry.object_path
        if taken is None or taken.location == entry.location or redefined:
            return
        if self._is_our_own(entry.module) and not self._is_our_own(taken.module):
            self._broken[f"{taken.name} ({taken.object_path})"] = _taken_by(entry)
            return
        locations = f"at {taken.location} and at {entry.location}"
        raise ValueError(f"{self.kind}: the name '{entry.name}' is registered twice, {locations}: rename one")

    def _described(self, name: str) -> str:
        return f"{self.kind.removesuffix('s').replace('_', ' ')} '{name}'"

    def _is_our_own(self, module: str) -> bool:
        return self._package is not None and _root(module) == _root(self._package)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # before the imports: a module may look up a name while it is imported
        try:
            self._import_package()
            self._load_plug_ins()
        except BaseException:  # the package itself failed to import, or Ctrl-C: the next look-up starts over
            self._discovered = False
            raise

    def _import_package(self) -> None:
        if self._package is None:
            return
        package = importlib.import_module(self._package)
        for found in pkgutil.iter_modules(package.__path__):
            if found.name.startswith("__"):
                continue
            module = f"{self._package}.{found.name}"
            with self._disabled_by_errors(module.replace(".", "/") + ("" if found.ispkg else ".py"), module):
                importlib.import_module(module)

    def _load_plug_ins(self) -> None:
        for point in importlib.metadata.entry_points(group=self.group):
            module = point.value.partition(":")[0]
            taken = self._entries.get(point.name)
            if taken is not None and _root(taken.module) != _root(module):
                self._broken[f"{point.name} ({point.value})"] = _taken_by(taken)
                continue
            with self._disabled_by_errors(point.name, module):
                loaded = point.load()
                # Loading usually runs the plug-in's own @register; an undecorated function is registered here. The
                # names that a module registers may differ from the entry point's.
                own = isinstance(loaded, ModuleType) and any(
                    f"{entry.module}.".startswith(f"{module}.") for entry in self._entries.values()
                )
                if point.name not in self._entries and not own:
                    self.register(point.name)(loaded)

    @contextlib.contextmanager
    def _disabled_by_errors(self, label: str, module: str) -> Iterator[None]:
        """If the block raises, list `label` as broken and remove what `module` had registered by then."""
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no error in one file may disable the others
            frames = traceback.walk_tb(error.__traceback__)
            lines = [line for frame, line in frames if frame.f_globals.get("__name__") == module]
            self._broken[label] = one_line(error) + (f" (line {lines[-1]})" if lines else "")
            self._entries = {name: entry for name, entry in self._entries.items() if entry.module != module}


def _any_of(names: list[str]) -> str:
    """"a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _taken_by(entry: Entry) -> str:
    return f"the name is used by {entry.location}, which takes precedence: rename the plug-in's"


def _root(module: str) -> str:
    return module.partition(".")[0]


def _object_path(registered: Callable[..., Any]) -> str:
    return f"{getattr(registered, '__module__', '?')}:{getattr(registered, '__qualname__', registered)}"


def _location(registered: Callable[..., Any]) -> str:
    registered = inspect.unwrap(registered)
    try:
        return f"{inspect.getsourcefile(registered)}:{inspect.getsourcelines(registered)[1]}"
    except (OSError, TypeError):
        return _object_path(registered)
