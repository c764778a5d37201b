"""Bad input becomes one clear line and exit code 2; files appear whole or not at all.

This module holds the one exception every room raises for the user's mistakes, the wrapper every command runs under, and
the one way a result is written to disk. It does not log, and it does not catch programming errors: those keep their
traceback, because hiding it would hide the bug.
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

# What the file system answers to a place that was badly chosen; everything else is a fault of the machine or of ours.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


class InputError(Exception):
    """The user's input is at fault. The message is one line: what was found, where, what was expected, what to do.

    No ValueError: command-line parsers take those for their own and wrap them in text of their own.
    """


def command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its status.

    `InputError` and a full disk print `error: …` on stderr and exit with 2; Ctrl-C exits with 130; a reader that
    closed our standard output early (`| head`) is no error. Anything else is a bug and keeps its traceback.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except InputError as error:
        status = _complain(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # The interpreter would complain again when it flushes stdout at exit; give it a place to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        done = "nothing half-written was left; free some space and run it again"
        status = _complain(f"the disk or a quota is full{where}: {done}")
    sys.exit(status)


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block ends well, remove it when it does not.

    The file is flushed to the disk before the move, so that a crash leaves the old file or the new one, never a torn
    one that looks whole. Parent folders are made. Raises InputError for a place that cannot be written.
    """
    target = Path(path)
    check_place(target)
    with _told(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Raise InputError where no file can be written to `path`, before hours of work end there. Makes its folder."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}): name another place") from None


def and_more(count: int, what: str = "") -> str:
    """A short tail for a message about the first of many."""
    return f" (and {count} more{' ' + what if what else ''})" if count > 0 else ""
