"""Errors and exit codes: every error is one line. Bad input and operating-system errors exit with 2, bugs with 70."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from registry.plug_ins import plug_in_of
from registry.redaction import redact

MAX_MESSAGE = 2000
"""Maximum characters of an error line; a longer one is shortened in the middle."""
INTERNAL_ERROR = 70
"""Exit code of a bug: EX_SOFTWARE of sysexits.h."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors that may be gone when the command is run again, such as a network drive that does not respond; not every
# system defines all of them.
_MOMENTARY = _FULL + tuple(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "ENOLCK"),
        *("ENOTCONN", "ESHUTDOWN", "ECOMM", "EREMOTEIO", "EHOSTDOWN", "EHOSTUNREACH", "EKEYEXPIRED"),
    )
    if hasattr(errno, name)
)

# What to do about an error of the operating system.
_ADVICE = {
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions or attributes, or choose another path",
    errno.EROFS: "choose a path on another disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is not a folder: choose another path",
    errno.EISDIR: "expected a file: choose another path, or move the folder away",
    errno.EEXIST: "choose another path, or move the file away",
    errno.ELOOP: "a symbolic link that leads to itself: delete it, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EINVAL: "expected a regular file: choose another path",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "free memory, or use a machine with more",
}

# PyTorch's messages for a tensor that does not fit into memory, or whose size does not fit into an integer; those of
# cuBLAS and cuDNN (CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED); and those of CUDA
# itself and NCCL (Cuda failure 2 'out of memory').
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "CUDA error: out of memory",
    "'out of memory'",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
)


class InputError(Exception):
    """The user's input is wrong. The message is one line: what was found, where, what was expected, what to do.

    It is not a ValueError, because command-line parsers catch those and add their own text.
    """


class MachineFault(InputError):
    """The input may be fine, but this machine failed just now: another attempt, or another machine, may succeed."""


class PlugInError(InputError):
    """A plug-in raised an exception, which is the cause of this one."""


class HelpShown(SystemExit):
    """`--help` was printed: the only case in which a command's `main` ends the process itself."""


class Terminated(BaseException):
    """SIGTERM, as an exception. Like KeyboardInterrupt, it is not an Exception, so no handler mistakes it for an error.
    """


def command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its status.

    `InputError` and every OSError print `error: …` on stderr and exit with 2. Ctrl-C exits with 130 and SIGTERM with
    143, both after temporary files are removed. A closed standard output (`| head`) is not an error. An exception from
    a plug-in prints one line that names the plug-in and a file with the traceback, and exits with 2. Anything else is a
    bug: one line that names such a file, and exit code 70.
    """
    try:
        _prepare_streams()
        with _sigterm_raises():
            status = main() or 0
        sys.stdout.flush()
    except PlugInError as error:
        status = _report_plug_in(str(error), error.__cause__ or error)
    except InputError as error:
        status = _print_error(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except HelpShown:
        raise
    except SystemExit as error:  # raised by a plug-in: with status 0, the command would seem to have succeeded
        status = _report_unexpected(error)
    except Terminated:
        print("terminated", file=sys.stderr)
        status = 128 + signal.SIGTERM
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        status = _print_error(describe_os_error(error)) if error.errno else _report_unexpected(error)
    except Exception as error:  # noqa: BLE001 - the last resort of a command
        fault = describe_machine_fault(error)
        status = _report_unexpected(error) if fault is None else _print_error(fault)
    sys.exit(status)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block, the first SIGTERM raises Terminated, unless the parent process had SIGTERM ignored."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_full_disk(error: Exception) -> bool:
    """Whether the disk or a quota is full, or a limit on file size was reached."""
    return isinstance(error, OSError) and error.errno in _FULL


def describe_machine_fault(error: Exception) -> str | None:
    """A full or failing disk, or too little memory, on one line; None for an error that a retry would hit again."""
    if isinstance(error, MachineFault):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error) if error.errno in _MOMENTARY else None
    if isinstance(error, MemoryError):  # NumPy names the size of the array
        return f"not enough memory ({one_line(error)}): free some, or use a machine with more"
    if is_out_of_memory(error):
        return f"not enough memory ({one_line(error)[:200]}): use smaller options, or a larger machine"
    return None


def describe_os_error(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """An error of the operating system on one line: the file, the reason, what to do.

    Pass `path`, the file, if the error may not name it.

    >>> describe_os_error(PermissionError(errno.EACCES, "Permission denied", "a.npy"))
    'a.npy: Permission denied: change its permissions, or choose another path'
    """
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = os.fspath(path) if path is not None else " -> ".join(names)
    if is_full_disk(error):
        place = f" while writing {where}" if where else ""
        advice = "no partial file was left; free some space and run the command again"
        return f"the disk or a quota is full{place}: {advice}"
    advice = _ADVICE.get(error.errno or 0, "check the path, the disk and the permissions")
    parts = (where, error.strerror or one_line(error), advice)
    return ": ".join(part for part in parts if part)


def _prepare_streams() -> None:
    """Print file names that are not UTF-8 with escapes; replace closed streams with the null device."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _print_error(message: str) -> int:
    line = " ".join(redact(message).splitlines())
    if len(line) > MAX_MESSAGE:  # with a path or text of thousands of characters in the middle
        line = f"{line[: MAX_MESSAGE // 2]} … {line[-MAX_MESSAGE // 2 :]}"
    print(f"error: {line}", file=sys.stderr)
    return 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch or a GPU library could not allocate memory: RuntimeErrors with different messages."""
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _NO_MEMORY)


def _report_unexpected(error: BaseException) -> int:
    """Print one line about an unexpected exception: a plug-in's fault, or a bug."""
    if found := plug_in_of(error):
        plug_in, place = found
        return _report_plug_in(f"{plug_in} ({place}): {one_line(error)}", error)
    details = _write_traceback(error, "hw3p2-internal-error-")
    print(f"internal error: {redact(one_line(error))}; {details}; please report it", file=sys.stderr)
    return INTERNAL_ERROR


def _report_plug_in(message: str, error: BaseException) -> int:
    return _print_error(f"{message}; {_write_traceback(error, 'hw3p2-plug-in-error-')}")


def _write_traceback(error: BaseException, prefix: str) -> str:
    """Write a traceback, without secrets, to a new file; returns the part of the message that names the file."""
    text = redact("".join(traceback.format_exception(error)))
    try:
        handle, path = tempfile.mkstemp(prefix=prefix, suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as refused:
        return f"its details could not be written ({refused.strerror})"
    return f"details in {path}"


def one_line(error: BaseException) -> str:
    """`Type: message` of an exception on one line; the message alone for an InputError."""
    message = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else type(error).__name__
    return ": ".join(part for part in (kind, message) if part)


def and_more(count: int, what: str = "") -> str:
    """Suffix for a message about the first of several faults: ` (and 3 more)`, or nothing for a count of 0."""
    return f" (and {count} more{' ' + what if what else ''})" if count > 0 else ""
