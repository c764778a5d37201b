"""Credentials that cannot be sent are refused in one line that does not show them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Harness

from registry.errors import InputError
from submit.credentials import prepare_environment

TOKEN = "KGAT_0123456789abcdef"


def prepare(home: Path, **variables: str) -> dict[str, str]:
    return prepare_environment({"HOME": str(home), **variables})


def test_white_space_around_credentials_in_variables_is_removed(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, KAGGLE_API_TOKEN=f"{TOKEN}\r\n", KAGGLE_USERNAME=" ada", KAGGLE_KEY="\n")
    assert prepared == {"HOME": str(tmp_path), "KAGGLE_API_TOKEN": TOKEN, "KAGGLE_USERNAME": "ada"}


@pytest.mark.parametrize("name", ["KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"])
@pytest.mark.parametrize("inside", ["\n", "\r\n", " ", "\0", "é", "\x7f", "\u2028"])
def test_other_characters_inside_are_refused(tmp_path: Path, name: str, inside: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: the .* in it: expected it alone, on one line") as caught:
        prepare(tmp_path, **{name: f"{TOKEN}{inside}more"})
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("name", ["access_token", "access_token.txt"])
def test_token_file_with_two_lines_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / ".kaggle").mkdir()
    path = tmp_path / ".kaggle" / name
    path.write_text(f"{TOKEN}\n")
    prepare(tmp_path)
    path.write_text(f"{TOKEN}\nanother")
    with pytest.raises(InputError, match=re.escape(f"{path}: the token has a line break in it")):
        prepare(tmp_path)
    prepare(tmp_path, KAGGLE_API_TOKEN=TOKEN)  # the file is not used then


def test_token_file_that_a_variable_names_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert prepare(tmp_path, KAGGLE_API_TOKEN=f"{path}\n")["KAGGLE_API_TOKEN"] == str(path)
    path.write_text(f"{TOKEN}\nanother")
    with pytest.raises(InputError, match=re.escape(f"{path}: the token has a line break in it")):
        prepare(tmp_path, KAGGLE_API_TOKEN=str(path))


def test_empty_token_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "access_token").write_text(" \n")
    (tmp_path / ".kaggle" / "access_token.txt").write_text(f"{TOKEN}\nanother")
    with pytest.raises(InputError, match=r"access_token\.txt: the token has a line break in it"):
        prepare(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"username": "ada", "key": "0123456789\\n"}', "key has .* in it: expected it alone, on one line"),
        ('{"username": "ada", "key": 3}', "key: expected a string"),
        ("[]", "username: expected a string"),
        ("{", "not readable as JSON"),
    ],
)
def test_damaged_kaggle_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "kaggle.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        prepare(tmp_path, KAGGLE_CONFIG_DIR=str(tmp_path))
    assert "0123456789" not in str(caught.value)
    prepare(tmp_path, KAGGLE_CONFIG_DIR=str(tmp_path), KAGGLE_USERNAME="ada", KAGGLE_KEY="0123456789")


def test_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".kaggle" / "access_token").mkdir(parents=True)
    with pytest.raises(InputError, match="access_token: Is a directory"):
        prepare(tmp_path)


def test_command_refuses_a_token_of_two_lines_and_sends_nothing(harness: Harness, tmp_path: Path) -> None:
    environment = harness.environment() | {"HOME": str(tmp_path), "KAGGLE_API_TOKEN": f"{TOKEN}\nsecond0123"}
    command = [sys.executable, "-m", "submit", "--competition", "hw", "--file", str(harness.file)]
    done = subprocess.run(
        [*command, "--ledger-file", str(harness.ledger)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: KAGGLE_API_TOKEN: the token has a line break in it")
    assert TOKEN not in done.stdout + done.stderr and "second0123" not in done.stdout + done.stderr
    assert not harness.kaggle.requests and not os.path.exists(harness.ledger)
