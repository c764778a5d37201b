"""The project's commands and their options, read from the parsers that the commands use themselves."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tyro

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "folds", "ensemble", "submit")
_ENTRY = re.compile(r"^if __name__ == .__main__.:\n    command\(", re.MULTILINE)
_DEFAULT = re.compile(r"\s*\(default: (.*)\)$", re.DOTALL)


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    names: tuple[str, ...]
    """With its dashes, and its negation for a flag; empty for a positional argument."""
    values: str
    """What it takes, as in the help text; its name for a positional argument, and empty for a flag."""
    help: str
    default: str


@dataclass(frozen=True)
class CommandHelp:
    """What the help text of a command says."""

    module: str
    description: str
    """Its first paragraph says what the command does."""
    panels: dict[str, list[Option]]
    """Options by the title of their panel."""

    @property
    def options(self) -> list[Option]:
        """Those of all panels."""
        return [option for panel in self.panels.values() for option in panel]


class _Captured(Exception):
    """The command got as far as its options."""


def find_commands() -> list[str]:
    """All modules to run with `python -m`, sorted: those that end in a call of `registry.command`."""
    files = [(package, path) for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))]
    commands = [(package, path.stem) for package, path in files if _ENTRY.search(path.read_text(encoding="utf-8"))]
    return [package if name == "__main__" else f"{package}.{name}" for package, name in commands]


def command_help(module: str, arguments: Sequence[str] = ()) -> CommandHelp:
    """The options of `python -m <module>`; `arguments` may choose among several sets, such as `--model las`."""
    parsers: list[argparse.ArgumentParser] = []

    def capture(options: Any, *, args: object = None, return_unknown_args: bool = False, **settings: Any) -> None:
        with warnings.catch_warnings():
            # tyro offers no other way to read its parser.
            warnings.simplefilter("ignore", DeprecationWarning)
            parsers.append(tyro.extras.get_parser(options, **settings))
        raise _Captured

    with contextlib.suppress(_Captured):
        _run_with(capture, module, arguments)
    (parser,) = parsers
    panels = {}
    for group in parser._action_groups:
        options = [_option(action) for action in group._group_actions if action.dest != "help"]
        if options:
            panels[_title(group.title)] = options
    return CommandHelp(module, parser.description or "", panels)


def parse_only(module: str, arguments: Sequence[str]) -> Any:
    """The options that `python -m <module> <arguments>` reads; nothing else is run. Raises InputError for bad ones."""
    parsed: list[Any] = []
    original = tyro.cli

    def parse(*positional: Any, **settings: Any) -> None:
        parsed.append(original(*positional, **settings))
        raise _Captured

    with contextlib.suppress(_Captured):
        _run_with(parse, module, arguments)
    return parsed[0]


def _run_with(cli: Callable[..., Any], module: str, arguments: Sequence[str]) -> None:
    """Run a command's `main` with another `tyro.cli`, which must raise."""
    name = f"{module}.__main__" if (ROOT / module / "__main__.py").is_file() else module
    main = importlib.import_module(name).main
    with mock.patch.object(tyro, "cli", cli), mock.patch.object(sys, "argv", [module, *arguments]):
        main()
    raise AssertionError(f"python -m {module} does not read its options with registry.command_line")


def _title(title: str | None) -> str:
    return re.sub(r"(?<=\w) options$", "", title or "")


def _option(action: argparse.Action) -> Option:
    text = (action.help or "").replace("%%", "%")
    default = _DEFAULT.search(text)
    values = "" if action.nargs == 0 else str(action.metavar or "")
    if not action.option_strings:
        values = action.dest.upper() + (" …" if action.nargs == "*" else "")
    return Option(
        names=tuple(action.option_strings),
        values=" | ".join(part.strip("{}") if part == "{None}" else part for part in values.split("|")),
        help=_DEFAULT.sub("", text),
        default=default[1] if default else "",
    )
