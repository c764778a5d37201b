"""Parse a command's options with tyro; whatever it rejects becomes a one-line error, like any other bad input."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from typing import Any, TypeVar

import tyro

from registry.errors import HelpShown, InputError

T = TypeVar("T")

# The parser prints a box: a title, the complaint, perhaps advice, and a reference to --help, separated by rules. If the
# terminal's encoding has no box characters, it is drawn with spaces and dashes, and a rule follows the title.
_RULE = re.compile(r"^[─\-\s]+$")
_FRAME = re.compile(r"^\s*[│|+╭╰]\s?|\s*[│|+╮╯]\s*$")
_NOT_A_NUMBER = (
    (re.compile(r"(--\S+): invalid literal for int\(\) with base 10: '(.*)'"), "a whole number"),
    (re.compile(r"(--\S+): could not convert string to float: '(.*)'"), "a number"),
    (re.compile(r"(--\S+): no type matching {None}\|INT .* from \['(.*?)'\].*"), "a whole number or None"),
    (re.compile(r"(--\S+): no type matching {None}\|FLOAT .* from \['(.*?)'\].*"), "a number or None"),
)


class UnknownOptions(InputError):
    """A command does not have the options `names`, which include the leading dashes."""

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names


def parse_options(options: type[T], prog: str, arguments: list[str] | None = None, **settings: Any) -> T:
    """`tyro.cli` with these settings; raises a one-line InputError for what it rejects. `--help` prints and exits.

    Options that the command does not have raise UnknownOptions.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(options, prog=prog, args=arguments, **settings)
    except SystemExit as exit:
        if not exit.code:
            raise HelpShown(0) from None
        message = _summary(complaint.getvalue(), prog)
        if unknown := re.match("Unrecognized options: ([^;]*)", message):
            raise UnknownOptions(message, re.findall(r"(?<!\S)--[\w-]+", unknown[1])) from None
        raise InputError(message) from None
    sys.stderr.write(complaint.getvalue())  # the parser's warnings
    return parsed


def leading_options(arguments: list[str], *names: str) -> dict[str, str | None]:
    """The values of these options, read first because the other options depend on them; None if one is not given.

    An option without a value is also None: `parse_options` will reject it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", nargs="?")
    return {name.replace("-", "_"): value for name, value in vars(parser.parse_known_args(arguments)[0]).items()}


def _summary(box: str, prog: str) -> str:
    """The error message in the parser's box, on one line."""
    lines = [_FRAME.sub("", line) for line in box.splitlines()[1:-1]]
    if lines and _RULE.match(lines[0]):
        lines.pop(0)
    rules = [row for row, line in enumerate(lines) if _RULE.match(line)] + [len(lines)]
    message = " ".join(" ".join(lines[: rules[0]]).split()).removeprefix("Error parsing ").rstrip(".")
    for pattern, expected in _NOT_A_NUMBER:
        message = pattern.sub(rf"\1 \2: expected {expected}", message)
    advice = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else []
    similar = re.findall(r"(?<!\S)--[\w-]+", " ".join(advice)) if "nrecognized" in message else []
    similar = [option for option in similar if option not in message and option != "--help"]
    if similar:
        message += f"; did you mean {' or '.join(dict.fromkeys(similar))}?"
    return f"{message or 'the options cannot be read'}; see {prog} --help"
