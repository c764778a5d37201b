"""Redaction: no text that is shown or stored contains a credential, whatever form the credential takes.

Messages of a server, a client library or the operating system may quote the credentials they were called with:
verbatim, escaped as in Python or JSON, wrapped over lines, URL-encoded or in base64. `redact` is the one place that
removes them. It knows the credentials that Kaggle's client may use and the environment's other secrets; it also
recognizes bearer headers, signatures in URLs, and passwords in URLs by their form alone.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)

_SHORTEST = 6
"""Minimum length of a secret; shorter values of variables are words such as `true`, which occur in any text."""

_MAX_BYTES = 1 << 16
"""How many bytes of a file with credentials are read."""

# One character of a text: escaped for a URL, Python, JSON or HTML, perhaps several times; or literal.
_CHARACTER = re.compile(
    r"%(?:25)*(?P<percent>[0-9a-f]{2})"
    r"|\\+(?:x(?P<byte>[0-9a-f]{2})|u(?P<unicode>[0-9a-f]{4})|(?P<break>[nrt])|(?P<quote>[\"'/]))"
    r"|(?P<entity>&(?:#\d{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot|apos);)"
    r"|(?P<plain>\\+|[^\\])",
    re.IGNORECASE | re.DOTALL,
)

_NAMES = r"\w*(?:signature|tokens?|key|password|secret|credentials?)"
_VALUE = r"""(?!\[redacted|bearer\s|basic\s)[^\s"'&,)}\]>]+"""
_BY_FORM = (
    (re.compile(rf"(?i)(\bbearer(?:\s|\+|%20)+){_VALUE}"), r"\1" + REDACTED),
    (re.compile(rf"(?i)(\bauthorization[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+)?){_VALUE}"), r"\1" + REDACTED),
    # The query string of an upload or download URL grants access.
    (re.compile(r"""\?(?=[^\s)'"<>?]*(?:=|%3D))[^\s)'"<>]+""", re.IGNORECASE), "?" + REDACTED),
    (re.compile(rf"(?i)(\b{_NAMES}(?:=|%3D)[\"']?){_VALUE}"), r"\1" + REDACTED),
    (re.compile(rf"(?i)([\"']{_NAMES}[\"']\s*:\s*b?[\"'])[^\"']+"), r"\1" + REDACTED),
    # A password may contain an unescaped "@": the host follows the last one.
    (re.compile(r"(\w://)[^\s/'\"]+@"), r"\1" + REDACTED + "@"),
)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without credentials; `environment` is of the process that used them, by default this one.

    >>> redact("Invalid header value b'Bearer KGAT_0123'", {})
    "Invalid header value b'Bearer [redacted]'"
    >>> redact("GET /upload?id=3&signature=5e2f refused", {"KAGGLE_KEY": "0123456789"})
    'GET /upload?[redacted] refused'
    >>> redact("key MDEyMzQ1Njc4OQ==", {"KAGGLE_KEY": "0123456789"})
    'key [redacted]Q=='
    """
    return _redact(text, _find_secrets(os.environ if environment is None else environment))


def redact_all(content: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Parsed JSON with every string in it redacted."""
    secrets = _find_secrets(os.environ if environment is None else environment)

    def redact_content(content: Any) -> Any:
        if isinstance(content, str):
            return _redact(content, secrets)
        if isinstance(content, (list, tuple)):
            return [redact_content(item) for item in content]
        if isinstance(content, dict):
            return {_redact(str(key), secrets): redact_content(value) for key, value in content.items()}
        return content

    return redact_content(content)


def _redact(text: str, secrets: frozenset[str]) -> str:
    if secrets:
        text = _remove(text, secrets)
    for pattern, replacement in _BY_FORM:
        text = pattern.sub(replacement, text)
    return text


def token_files(environment: Mapping[str, str]) -> list[Path]:
    """The files in which Kaggle's client looks for a token, in the client's order."""
    named = [environment.get(name, "").strip() for name in ("KAGGLE_API_V1_TOKEN", "KAGGLE_API_TOKEN")]
    folder = _home(environment) / ".kaggle"
    return [*map(Path, filter(_is_path, named)), folder / "access_token", folder / "access_token.txt"]


def key_files(environment: Mapping[str, str]) -> list[Path]:
    """The files in which Kaggle's client looks for a user's key or an OAuth token."""
    home = _home(environment)
    configuration = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    folders = [home / ".kaggle", configuration / "kaggle"]
    if named := environment.get("KAGGLE_CONFIG_DIR"):
        folders.insert(0, Path(named))
    return [*(folder / "kaggle.json" for folder in folders), home / ".kaggle" / "credentials.json"]


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or os.path.expanduser("~"))


def _is_path(value: str) -> bool:
    try:
        return bool(value) and os.path.exists(value)
    except (OSError, ValueError):
        return False


def _find_secrets(environment: Mapping[str, str]) -> frozenset[str]:
    """The credentials in the environment and in the files of Kaggle's client."""
    texts = [value for name, value in environment.items() if _SECRET_NAME.search(name)]
    texts = [text for text in texts if not (os.path.isabs(text.strip()) and _is_path(text.strip()))]
    texts += map(_read, token_files(environment))
    for path in key_files(environment):
        content = _read(path)
        try:
            texts += _secret_values(json.loads(content))
        except (ValueError, RecursionError):
            texts += re.findall(r"\w{16,}", content)  # not valid JSON: take anything that looks like a key
    # A secret over several lines may be shown line by line.
    parts = {part.strip() for text in texts for part in (text, *text.splitlines())}
    return frozenset(part for part in parts if len("".join(part.split())) >= _SHORTEST)


def _secret_values(content: Any) -> Iterator[str]:
    """The strings in a credentials file, except those whose keys say that they are not secret."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name not in ("username", "scopes", "access_token_expiration", "competition", "path", "proxy"):
                yield from _secret_values(value)
    elif isinstance(content, list):
        for value in content:
            yield from _secret_values(value)
    elif isinstance(content, str):
        yield content


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except (OSError, ValueError):
        return ""


@functools.lru_cache(maxsize=16)
def _spellings(secrets: frozenset[str]) -> list[bytes]:
    """What to look for in a normalized text: each secret verbatim, in hexadecimal and in base64; longest first."""
    spellings = set()
    for secret in secrets:
        data = secret.encode("utf-8", "surrogatepass")
        for spelling in (secret, data.hex(), *_base64_cores(data)):
            spellings.add(_normalize(spelling)[0])
    # Nothing is left of null bytes, as in a file that a crash damaged, or of escaped white space.
    spellings.discard(b"")
    return sorted(spellings, key=lambda spelling: (-len(spelling), spelling))


def _base64_cores(data: bytes) -> Iterator[str]:
    """What the base64 of any text that contains `data` must contain: one form for each offset modulo 3."""
    for before, first in enumerate((0, 2, 3)):
        padded = bytes(before) + data
        yield base64.b64encode(padded)[first : len(padded) * 8 // 6].decode()


def _normalize(text: str) -> tuple[bytes, list[tuple[int, int]]]:
    """The text unescaped, in lower case, without white space, and with `-_` (of URL-safe base64) replaced by `+/`.

    Also returns the first and the last position in `text` of each byte.
    """
    content, places = bytearray(), []
    for match in _CHARACTER.finditer(text):
        data = _decode(match).translate(_FOLD, b" \t\n\r\v\f\0")
        content += data
        places += [match.span()] * len(data)
    return bytes(content), places


_FOLD = bytes(range(256)).lower().translate(bytes.maketrans(b"-_", b"+/"))


def _decode(match: re.Match[str]) -> bytes:
    kind, value = match.lastgroup, match[match.lastgroup or 0]
    if kind in ("percent", "byte"):
        return bytes.fromhex(value)
    if kind == "break":
        return b""
    if kind == "unicode":
        value = chr(int(value, 16))
    elif kind == "entity":
        value = html.unescape(value)
    elif kind == "plain":
        value = value[0]  # a backslash may have been doubled
    return value.encode("utf-8", "surrogatepass")


def _remove(text: str, secrets: frozenset[str]) -> str:
    """The text without these secrets, in any spelling."""
    content, places = _normalize(text)
    spans = []
    for spelling in _spellings(secrets):
        start = content.find(spelling)
        while start >= 0:
            end = start + len(spelling)
            spans.append((places[start][0], places[end - 1][1]))
            start = content.find(spelling, end)
    pieces, position = [], 0
    for start, end in sorted(spans):
        if start >= position:
            pieces += [text[position:start], REDACTED]
        position = max(position, end)
    return "".join(pieces) + text[position:]
