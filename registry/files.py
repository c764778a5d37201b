"""Atomic file writes, with a clear one-line error for a path that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from registry.errors import InputError
from registry.processes import ProcessId, this_process

# File-system errors caused by a badly chosen path; all others are faults of the machine or of this code.
_BAD_PATH = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTSUP, errno.EBUSY, errno.ETXTBSY, errno.EXDEV),
)

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
}

# How many characters of a file's name go into its temporary name: up to 4 bytes each, and a name has up to 255 bytes.
_KEPT = 45

# A temporary file's name identifies the process that writes it, to tell leftovers of killed ones from work in progress.
_TEMPORARY = re.compile(
    r"\.(?P<name>.*)\.(?P<machine>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<started>\d{1,20})\.\w+\.tmp", re.DOTALL
)
_ABANDONED_S = 86_400.0
"""Another machine's temporary file that was not written to for this long is taken for a killed process's leftover."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    The file is flushed to disk before it is renamed, so a crash leaves the old file or the new one, never a truncated
    one that looks complete. Missing parent folders are created. Links are followed. Raises InputError for a path that
    cannot be written, or that is a device or another special file. If only the rename fails, the complete temporary
    file is kept, and the error names it. Temporary files that killed processes left for `path` are deleted.
    """
    check_writable(Path(path))
    target = _target(Path(path))
    remove_leftovers(target.parent, target.name)
    process = this_process()
    # Even a name of maximal length must leave room for the rest of the temporary name.
    prefix = f".{target.name[:_KEPT]}.{process.machine}-{process.pid}-{process.started}."
    with _bad_path_is_input_error(target):
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results get the user's default permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # errors of writing to an open file, such as a full disk, do not name it
        raise
    try:
        temporary.replace(target)
    except OSError as error:
        kept = f"the complete file is kept as {temporary}: move it to where it belongs"
        raise InputError(f"{target}: cannot be replaced ({error.strerror}): {kept}") from None


def _remove(path: Path) -> None:
    """Delete a file if possible; used while an error propagates, which must not be hidden by another one."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete the temporary files in `folder` that `atomic_write` could not delete because its process was killed.

    With `name`, only the temporary files of that file. Those of processes that may be alive are kept.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return  # only housekeeping: the next read or write there raises its own error
    for path in paths:
        match = _TEMPORARY.fullmatch(path.name)
        if match and (name is None or match["name"] == name[:_KEPT]):
            process = ProcessId(match["machine"], int(match["pid"]), int(match["started"]))
            if process.known_dead or (not process.known_alive and _age(path) > _ABANDONED_S):
                _remove(path)


def _age(path: Path) -> float:
    """Seconds since a file was last written to; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`.

    Raises OSError if this cannot be determined, for example without permission; in some versions of Python,
    `Path.exists` returns False.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listed(folder: Path, pattern: str) -> list[Path]:
    """The paths in `folder` whose names match the glob `pattern`, sorted; none if there is no such folder.

    Raises OSError for a folder that cannot be read, which `Path.glob` treats as empty.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.match(pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_folder(folder: Path) -> None:
    """Raise OSError if no file can be created in a folder.

    `os.access` is not enough: root may write to /proc, but nobody can create a file there, and waiting for a lock file
    that cannot be created never ends.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_writable(path: Path) -> None:
    """Raise InputError if no file can be written to `path`, before hours of work are lost. Creates its folder."""
    with _bad_path_is_input_error(path):
        folder = _target(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if mode and not stat.S_ISREG(mode):
            # Renaming a file onto a device, such as /dev/null for root, would replace the device itself.
            raise InputError(f"{path}: not a regular file, and is not replaced: choose another path")
        check_folder(folder)


def _target(path: Path) -> Path:
    """Where a file at `path` is written: a link is kept, and the file it points to is replaced."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _mode(path: Path) -> int:
    """The type and permissions of a file; 0 if there is none. Unlike `Path.exists`, raises OSError for a link loop."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError for anything but a regular file, before it is opened.

    Opening a pipe waits for its other end, a terminal for its user, and reading a device may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # from JSON: a name with a null byte, or with half of a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name", ascii(os.fspath(path))) from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{_SPECIAL.get(stat.S_IFMT(mode), 'a special file')}, not a file", os.fspath(path))


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file. Raises OSError as `check_regular` does."""
    check_regular(path)
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _bad_path_is_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _BAD_PATH:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}): choose another path") from None
