"""Surroundings in which a command may be started: each is a function that a forked child calls before the command."""

from __future__ import annotations

import locale
import os
import shutil
import sys
import tempfile
from collections.abc import Callable


def _close(*numbers: int) -> Callable[[], None]:
    """The streams of a process that was started with these descriptors closed: Python sets them to None."""

    def close() -> None:
        for number in numbers:
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)

    return close


def _without(*names: str) -> Callable[[], None]:
    def unset() -> None:
        for name in names:
            os.environ.pop(name, None)

    return unset


def _in_ascii() -> None:
    os.environ.update(LC_ALL="C", PYTHONIOENCODING="ascii")
    locale.setlocale(locale.LC_ALL, "C")
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, open(number, "w", encoding="ascii", errors="strict", closefd=False, buffering=1))  # noqa: SIM115


def _output_is_full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _reader_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _in_a_deleted_folder() -> None:
    folder = tempfile.mkdtemp(dir=".")
    os.chdir(folder)
    os.rmdir(os.path.join("..", os.path.basename(folder)))


def _without_tmp() -> None:
    shutil.rmtree(os.environ["TMPDIR"])


SURROUNDINGS: dict[str, Callable[[], object]] = {
    "stdin closed": _close(0), "stdout closed": _close(1), "stderr closed": _close(2), "all closed": _close(0, 1, 2),
    "no HOME": _without("HOME"), "no PATH": _without("PATH"), "no TMPDIR": _without("TMPDIR"),
    "TMPDIR is gone": _without_tmp, "no HW3P2_CACHE": _without("HW3P2_CACHE"), "ASCII": _in_ascii,
    "umask 077": lambda: os.umask(0o077), "umask 0777": lambda: os.umask(0o777), "stdout full": _output_is_full,
    "reader of stdout gone": _reader_is_gone, "cwd in /proc": lambda: os.chdir("/proc"),
    "cwd deleted": _in_a_deleted_folder,
}  # fmt: skip
"""By name. Without a cache of its own, a case would write to the user's: HOME and TMPDIR are the case's own then."""
