"""Commands end with one line and a status."""

from __future__ import annotations

import errno
import os

import pytest

from registry import InputError, command
from registry.errors import and_more, one_line


def _status(main) -> int:
    with pytest.raises(SystemExit) as exit:
        command(main)
    return exit.value.code


def _raise(error):
    raise error


def test_status_and_message(capsys):
    assert _status(lambda: None) == 0
    assert _status(lambda: 1) == 1
    assert _status(lambda: _raise(InputError("a.npy: empty: expected frames"))) == 2
    assert capsys.readouterr().err == "error: a.npy: empty: expected frames\n"
    assert _status(lambda: _raise(KeyboardInterrupt())) == 130


def test_a_full_disk_is_one_line(capsys):
    assert _status(lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.bin"))) == 2
    assert capsys.readouterr().err == (
        "error: the disk or a quota is full while writing x.bin: no partial file was left; free some space and run the "
        "command again\n"
    )


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command(lambda: 1 // 0)


def test_an_exception_on_one_line():
    assert one_line(ValueError("two\n  lines")) == "ValueError: two lines" and one_line(KeyError()) == "KeyError"
    assert one_line(InputError("a.npy: empty")) == "a.npy: empty"


def test_the_number_of_further_cases():
    assert and_more(2) == " (and 2 more)" and and_more(1, "files") == " (and 1 more files)" and and_more(0) == ""
