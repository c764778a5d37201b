"""Check Kaggle's credentials before the official client uses them, without ever printing them.

The client sends a token unchanged in a header. A trailing line break, as in a variable set from a mounted secret, is
removed; one inside the token would only be caught by the HTTP library, which prints the whole header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from registry.errors import InputError, describe_os_error
from registry.redaction import key_files, token_files

_VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY")


def prepare_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for the official client, with white space around credentials removed.

    Raises `InputError` for credentials that the client would use and that cannot be sent: more than one line, white
    space or control characters inside, characters outside ASCII, a file that cannot be read.
    """
    prepared = dict(os.environ if environment is None else environment)
    for name in _VARIABLES:
        if name in prepared:
            prepared[name] = prepared[name].strip()
            if not prepared[name]:
                del prepared[name]
    _check_token(prepared)
    _check_key(prepared)
    return prepared


def _check_token(environment: Mapping[str, str]) -> None:
    """Check the token that the client would send, if any."""
    files = token_files(environment)
    token = environment.get("KAGGLE_API_TOKEN")
    if token and Path(token) not in files:
        _check(token, "KAGGLE_API_TOKEN", "the token")
        return
    for path in files:
        if token := _read(path).strip():
            _check(token, str(path), "the token")
            return


def _check_key(environment: Mapping[str, str]) -> None:
    """Check the user name and the key, which the client takes from variables, else from a file."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        _check(environment.get(name, ""), name, "the value")
    if environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY"):
        return
    for path in key_files(environment):
        if path.name != "kaggle.json" or not (text := _read(path)):
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: not readable as JSON: download it again from your Kaggle settings") from None
        for name in ("username", "key"):
            value = content.get(name, "") if isinstance(content, dict) else None
            if not isinstance(value, str):
                raise InputError(f"{path}: {name}: expected a string: download it again from your Kaggle settings")
            _check(value, str(path), name)
        return


def _check(value: str, where: str, what: str) -> None:
    if any(not "!" <= character <= "~" for character in value):
        found = "a line break" if len(value.splitlines()) > 1 else "white space or another unexpected character"
        raise InputError(f"{where}: {what} has {found} in it: expected it alone, on one line; copy it again")


def _read(path: Path) -> str:
    """The text of a file; empty if there is none."""
    try:
        if not path.exists():
            return ""
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8: expected Kaggle credentials; save them again") from None
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from None
