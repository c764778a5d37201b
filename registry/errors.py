"""Errors and exit codes: bad input is one clear line and exit code 2; programming errors keep their traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(Exception):
    """The user's input is wrong. The message is one line: what was found, where, what was expected, what to do.

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


def one_line(error: BaseException) -> str:
    """`Type: message` of an exception on one line; the message alone for an InputError."""
    message = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else type(error).__name__
    return ": ".join(part for part in (kind, message) if part)


def and_more(count: int, what: str = "") -> str:
    """The end of a message about the first of several: ` (and 3 more)`, or nothing for a count of 0."""
    return f" (and {count} more{' ' + what if what else ''})" if count > 0 else ""
