"""Our own JSON files: written atomically, and validated against a schema when read.

A schema is a type with annotations: a `msgspec.Struct`, a dataclass, or `dict[str, Any]`. Unknown keys are accepted, so
that files written by later versions can be read; fields that were added later have defaults, so that older files can be
read. Any fault in a file raises one InputError that names the file, the key, what was found and what was expected.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from registry.errors import InputError, describe_os_error
from registry.files import atomic_write, read_regular

T = TypeVar("T")

# The format of msgspec's error messages: "Expected `int`, got `null` - at `$.fold`".
_PLACE = re.compile(r"^(?P<message>.*?)(?: - at `(?:key in )?\$(?P<key>[^`]*)`)?$", re.DOTALL)
_TYPES = re.compile(r"^Expected (?P<expected>.*), got (?P<found>.*)$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, schema: type[T], advice: str = "restore the file, or make it again") -> T:
    """Read a JSON file with the content that `schema` describes.

    Raises InputError, ending with `advice`, for a file that is missing, cannot be read, or does not fit the schema.
    """
    try:
        content = _parse(read_regular(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: {advice}") from None
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}): {advice}") from None
    return convert(content, schema, str(path), advice)


def read_json_lines(path: Path, schema: type[T], any_torn: bool = False) -> list[T]:
    """Read a log with one JSON object per line, each as `schema` describes it.

    A last line truncated by a crash is skipped with a warning; with `any_torn`, for logs that are appended to after a
    crash, so is any other line that is not JSON. Raises FileNotFoundError for a missing file, and InputError for one
    that cannot be read or does not fit the schema.
    """
    try:
        lines = read_regular(path).splitlines()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            content = _parse(line)
        except ValueError as error:
            if not line.strip():
                continue
            if not any_torn and number < len(lines):
                raise InputError(f"{where}: not readable as JSON ({error}): restore or delete the line") from None
            _warn(f"{where}: cut off, and left out")
            continue
        rows.append(convert(content, schema, where, "restore or delete the line"))
    return rows


def convert(content: Any, schema: type[T], where: str, advice: str = "", strict: bool = True) -> T:
    """Convert `content`, parsed JSON, to `schema`; without `strict`, numbers may be given as strings.

    Raises InputError, starting with `where` and ending with `advice`.
    """
    try:
        return msgspec.convert(content, schema, strict=strict)
    except UnicodeEncodeError:
        raise InputError(f"{where}: contains text that is not UTF-8" + (f": {advice}" if advice else "")) from None
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: {describe_mismatch(error)}" + (f": {advice}" if advice else "")) from None


def describe_mismatch(error: Exception) -> str:
    """What is wrong and where, from an error of `msgspec.convert`.

    >>> describe_mismatch(msgspec.ValidationError("Expected `int`, got `null` - at `$.data.fold`"))
    'data.fold: expected int, found null'
    >>> describe_mismatch(msgspec.ValidationError("Object missing required field `hash` - at `$.data`"))
    'data: no hash'
    """
    place = _PLACE.match(str(error).replace("\n", " "))
    message, key = (place["message"], (place["key"] or "").lstrip(".")) if place else (str(error), "")
    if missing := _MISSING.match(message):
        message = f"no {missing['name']}"
    elif types := _TYPES.match(message):
        message = f"expected {types['expected']}, found {types['found']}"
    elif message.startswith("Expected"):
        message = "e" + message[1:]
    return (f"{key}: " if key else "") + message.replace("`", "")


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to one level: the entry `noise` of the object `augment` becomes `augment.noise`.

    >>> flattened({"lr": 0.1, "augment": {"noise": 0.2}})
    {'lr': 0.1, 'augment.noise': 0.2}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _parse(data: bytes) -> Any:
    # json.loads rather than msgspec's decoder: our files may contain NaN, and names that are not UTF-8, escaped.
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@functools.cache
def _warn(message: str) -> None:
    """Print a warning once per process: a log may be read several times."""
    print(f"warning: {message}", file=sys.stderr)
