"""Bad input becomes one clear line and exit code 2; files appear whole or not at all.

This module has the exception that every package raises for the user's mistakes, the wrapper that every command runs in,
and the function that every result is written through. Programming errors keep their traceback: hiding it would hide the
bug.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# Errors of the file system for a path that was badly chosen; all others are faults of the machine or of this code.
_BAD_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


class InputError(Exception):
    """The user's input is at fault. The message is one line: what was found, where, what was expected, what to do.

    It is not a ValueError, because command-line parsers catch those and add text of their own.
    """


def command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its status.

    `InputError` and a full disk print `error: …` on stderr and exit with 2. Ctrl-C exits with 130. A closed standard
    output (`| head`) is not an error. Anything else is a bug and keeps its traceback.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except InputError as error:
        status = _print_error(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        advice = "no partial file was left; free some space and run the command again"
        status = _print_error(f"the disk or a quota is full{where}: {advice}")
    sys.exit(status)


def _print_error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    The file is flushed to disk before it is renamed, so a crash leaves the old file or the new one, never a truncated
    one that looks complete. Missing parent folders are created. Raises InputError for a path that cannot be written.
    """
    target = Path(path)
    check_place(target)
    with _bad_path_is_input_error(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results get the permissions of any file the user creates.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Raise InputError if no file can be written to `path`, before hours of work are spent. Creates its folder."""
    with _bad_path_is_input_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextlib.contextmanager
def _bad_path_is_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _BAD_PATH:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}): choose another path") from None


def one_line(error: BaseException) -> str:
    """`Type: message` of an exception on one line; the message alone for an InputError."""
    message = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else type(error).__name__
    return ": ".join(part for part in (kind, message) if part)


def and_more(count: int, what: str = "") -> str:
    """The end of a message about the first of several: ` (and 3 more)`, or nothing for a count of 0."""
    return f" (and {count} more{' ' + what if what else ''})" if count > 0 else ""
