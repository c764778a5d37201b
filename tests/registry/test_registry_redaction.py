"""Redaction: credentials in any spelling, from variables and files, and what is recognized by its form alone."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.redaction import redact, redact_all

TOKEN = "KGAT_0a9+/-x7Zq'1\"2345"
HOME = {"HOME": "/nonexistent"}


def _quote_all(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _wrap(text: str) -> str:
    return "\n".join(text[start : start + 5] for start in range(0, len(text), 5))


# Each spelling, and how to read it again: the test looks for the token in what redaction leaves.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "upper case": str.upper,
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "repr of repr": lambda text: repr(repr(text)),
    "JSON": json.dumps,
    "JSON with code points": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "URL": urllib.parse.quote,
    "whole URL": lambda text: urllib.parse.quote(text, safe=""),
    "URL twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
    "percent": _quote_all,
    "HTML": html.escape,
    "hexadecimal": lambda text: text.encode().hex(),
    "wrapped": _wrap,
    "repr of wrapped": lambda text: repr(_wrap(text)),
    "URL of wrapped": lambda text: urllib.parse.quote(_wrap(text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 after a name": lambda text: base64.b64encode(b"ada:" + text.encode()).decode(),
    "base64 after two": lambda text: base64.b64encode(b"ab" + text.encode() + b"yz").decode(),
    "base64 of a URL": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: _wrap(base64.b64encode(b"u:" + text.encode()).decode()),
    "base64, then URL": lambda text: urllib.parse.quote(base64.b64encode(text.encode()).decode(), safe=""),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_token_is_removed_in_every_spelling(spelling: str) -> None:
    text = redact(f"before {SPELLINGS[spelling](TOKEN)} after", HOME | {"KAGGLE_API_TOKEN": TOKEN})
    assert text.startswith("before ") and text.endswith(" after")
    left = text.removeprefix("before ").removesuffix(" after").replace("[redacted]", "").strip("\"'b\\")
    assert len(left) <= 8  # in base64, what was encoded before and after the token


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=50), st.integers(0, 3))
def test_any_token_is_removed_from_base64(token: str, before: int) -> None:
    assume(not token.startswith("/"))  # a path is no secret
    encoded = base64.b64encode(b"ada"[:before] + token.encode() + b"!").decode()
    text = redact(encoded, HOME | {"KAGGLE_KEY": token})
    left = text.replace("[redacted]", "")
    assert "[redacted]" in text and len(left) <= 12


def test_a_token_of_two_lines_is_removed_whole_and_line_by_line() -> None:
    environment = HOME | {"KAGGLE_API_TOKEN": "KGAT_first0123\nsecond4567\n"}
    assert redact("a KGAT_first0123 b second4567 c", environment) == "a [redacted] b [redacted] c"
    assert redact("header b'Bearer KGAT_first0123\\nsecond4567\\n'", environment) == "header b'Bearer [redacted]\\n'"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "wandb_api_key", "AWS_SECRET", "CLIENT_SECRET_ID", "DB_PASSWORD", "MY_CREDENTIALS"]
)
def test_values_of_variables_whose_names_speak_of_secrets_are_removed(name: str) -> None:
    assert redact("a 012345 b", HOME | {name: "012345"}) == "a [redacted] b"
    assert redact("a 01234 b", HOME | {name: "01234"}) == "a 01234 b"  # too short for a secret
    assert redact("a 012345 b", HOME | {"USER": "012345"}) == "a 012345 b"


@pytest.mark.parametrize(
    ("other", "text"),
    [("345678", "0123456789ab"), ("0123456789", "0123456789ab"), ("6789abcdef", "0123456789abcdef")],
)
def test_secrets_that_overlap_are_removed_whole(other: str, text: str) -> None:
    assert redact(f"a {text} b", HOME | {"KAGGLE_KEY": "0123456789ab", "HF_TOKEN": other}) == "a [redacted] b"


@pytest.mark.parametrize("value", ["%20%20%20", r"\n\n\n", "&#32;&#32;", "%00%00%00"])
def test_secret_that_is_white_space_once_decoded_does_not_stop_redaction(value: str) -> None:
    assert redact("20% of 0123456789", HOME | {"A_KEY": value, "KAGGLE_KEY": "0123456789"}) == "20% of [redacted]"


def test_credentials_in_all_folders_of_kaggles_client_are_removed(tmp_path: Path) -> None:
    contents = {
        ".kaggle/access_token.txt": "token-in-a-text-file",
        ".config/kaggle/kaggle.json": '{"key": "key-in-config"}',
        "xdg/kaggle/kaggle.json": '{"key": "0123456789abcdefXYZ", ',  # not whole
        "own/kaggle.json": '{"proxy": "http://proxy:3128", "others": ["key-in-a-list", {"key": "key-below"}]}',
        "v1": "token-of-a-notebook",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    text = "token-in-a-text-file key-in-config 0123456789abcdefXYZ key-in-a-list key-below token-of-a-notebook"
    text += " http://proxy:3128"
    environment = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / "own")}
    environment |= {"KAGGLE_API_V1_TOKEN": str(tmp_path / "v1")}
    found = redact(text, environment)
    assert found == "[redacted] [redacted] 0123456789abcdefXYZ [redacted] [redacted] [redacted] http://proxy:3128"
    found = redact(text, environment | {"XDG_CONFIG_HOME": str(tmp_path / "xdg")})
    assert found == "[redacted] key-in-config [redacted] [redacted] [redacted] [redacted] http://proxy:3128"


def test_credentials_in_files_of_kaggles_client_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / ".kaggle"
    folder.mkdir()
    (folder / "access_token").write_text("token-in-a-file\n")
    (folder / "kaggle.json").write_text('{"username": "ada-lovelace", "key": "key-in-a-file"}')
    (folder / "credentials.json").write_text('{"username": "ada-lovelace", "refresh_token": "oauth-in-a-file"}')
    (tmp_path / "secret").write_text("token-by-path")
    environment = {"HOME": str(tmp_path), "KAGGLE_API_TOKEN": str(tmp_path / "secret")}
    text = f"token-in-a-file key-in-a-file oauth-in-a-file token-by-path ada-lovelace {tmp_path / 'secret'}"
    assert redact(text, environment) == f"{' '.join(['[redacted]'] * 4)} ada-lovelace {tmp_path / 'secret'}"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\0" * 100, b"{", b"[" * 10_000, b'{"key": 3}'])
def test_damaged_files_with_credentials_do_not_stop_redaction(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".kaggle").mkdir()
    for name in ("access_token", "kaggle.json", "credentials.json"):
        (tmp_path / ".kaggle" / name).write_bytes(content)
    environment = {"HOME": str(tmp_path), "KAGGLE_KEY": "0123456789"}
    assert redact("0123456789 is the key", environment) == "[redacted] is the key"


def test_short_values_and_paths_are_no_secrets(tmp_path: Path) -> None:
    environment = HOME | {"TOKENIZERS_PARALLELISM": "false", "KEY_FOLDER": str(tmp_path)}
    assert redact(f"false {tmp_path}/a", environment) == f"false {tmp_path}/a"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("{'Authorization': 'Basic YWRhOmtleQ=='}", "{'Authorization': 'Basic [redacted]'}"),
        ("url: /upload/7?id=3&X-Goog-Signature=5e2f (Caused by", "url: /upload/7?[redacted] (Caused by"),
        ("upload%3Fsignature%3D5e2f", "upload%3Fsignature%3D[redacted]"),
        ('{"token": "abc", "n": 3}', '{"token": "[redacted]", "n": 3}'),
        ("proxy http://ada:pass@host:80/", "proxy http://[redacted]@host:80/"),
        ("proxy http://ada:p@ss@host:80/ for a@b", "proxy http://[redacted]@host:80/ for a@b"),
        ("sent Bearer%20abc.def and bearer+abc", "sent Bearer%20[redacted] and bearer+[redacted]"),
        ("authorization=Basic YWRhOmtleQ==", "authorization=Basic [redacted]"),
        ("access_token=abc&n=3 api_key='abc'", "access_token=[redacted]&n=3 api_key='[redacted]'"),
        ("password%3Dabc, client_secret=abc", "password%3D[redacted], client_secret=[redacted]"),
        ("credentials=abc signature=abc", "credentials=[redacted] signature=[redacted]"),
        ("{'X_Signature': b'abc', 'password': 'a b'}", "{'X_Signature': b'[redacted]', 'password': '[redacted]'}"),
        ("config.json: key: expected str, found int", "config.json: key: expected str, found int"),
        ("is it right? a = 3", "is it right? a = 3"),
    ],
)
def test_secrets_are_recognized_by_their_form(text: str, expected: str) -> None:
    assert redact(text, HOME) == expected


def test_every_text_of_parsed_json_is_redacted() -> None:
    content = {"a 0123456789": ["0123456789", 3, None, {"b": "x 0123456789"}]}
    expected = {"a [redacted]": ["[redacted]", 3, None, {"b": "x [redacted]"}]}
    assert redact_all(content, HOME | {"KAGGLE_KEY": "0123456789"}) == expected
