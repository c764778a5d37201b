"""Download a competition's data through the official client, resume and verify the zip, and unpack it into one folder.

The client downloads the zip and can resume the download. But it does not verify the zip, it skips the download if a
file of the same size and time exists, whatever its content, and it unpacks without checking names; this module adds
these checks. `DIR/.download.json` records which version of the zip was downloaded and unpacked, so that a second run
has nothing to do. `folds.competition` interprets the data.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from registry.console import ProgressBar
from registry.errors import InputError
from registry.files import atomic_write
from registry.json_files import read_json
from submit.client import TRIES, Client, Failure, TimeBudget

_CHUNK = 1 << 20


def download_data(client: Client, budget: TimeBudget, competition: str, out: Path, log: Callable[[str], None]) -> None:
    """Download and unpack a competition's data into `out`.

    Raises `Failure`, and `InputError` if the disk has too little space.
    """
    remote = client.query("get_archive_info", budget, competition=competition)
    archive, record = out / f"{competition}.{remote['suffix']}", out / ".download.json"
    state = _read_state(record, remote)
    if state == "unpacked":
        log(f"{out} already has this version; delete {record} to download it again")
        return
    out.mkdir(parents=True, exist_ok=True)
    if state != "fetched" or not archive.is_file():
        _download_archive(client, budget, competition, archive, remote)
        _write_state(record, remote, "fetched")
    _unpack(archive, out)
    _write_state(record, remote, "unpacked")
    log(f"{archive} is verified and unpacked, and may be deleted")


def _read_state(record: Path, remote: dict[str, Any]) -> str:
    """Read how far an earlier run got with the version on the server: `""`, `fetched` or `unpacked`."""
    try:
        recorded = read_json(record, dict[str, Any])
    except InputError:
        return ""
    return str(recorded.get("state", "")) if all(recorded.get(key) == value for key, value in remote.items()) else ""


def _write_state(record: Path, remote: dict[str, Any], state: str) -> None:
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps({**remote, "state": state}))


def _download_archive(
    client: Client, budget: TimeBudget, competition: str, archive: Path, remote: dict[str, Any]
) -> None:
    """Download the whole zip, and retry as long as the download makes progress."""
    marker = archive.with_name(archive.name + ".kaggle-partial")
    failures = 0
    while True:
        # Without the marker the client cannot tell which version a partial file belongs to: overwrite it.
        force = not marker.exists()
        start = 0 if force else _get_size(archive)
        if remote["size"] is not None:
            _check_free_space(archive.parent, remote["size"] - start, "the zip")
        try:
            with _DownloadProgress(archive, remote["size"], start, budget) as progress:
                client.call(
                    "download", budget, budget.remaining, watch=progress.update,
                    competition=competition, folder=str(archive.parent), force=force,
                )
            _verify(archive, remote)
            return
        except Failure as failure:
            if failure.kind == "damaged":
                archive.unlink(missing_ok=True)
                marker.unlink(missing_ok=True)
            elif not failure.transient:
                raise
            # Only failures without progress count: a slow connection may be interrupted many times.
            failures = 0 if _get_size(archive) > start else failures + 1
            if failures >= TRIES:
                raise
            budget.wait(failures, failure)


class _DownloadProgress:
    """A progress bar for a growing file, with a timeout if the file stops growing."""

    def __init__(self, archive: Path, total: int | None, start: int, budget: TimeBudget) -> None:
        self._archive, self._budget = archive, budget
        self._bar = ProgressBar(archive.name, total, completed=start)
        self._size, self._changed = start, time.monotonic()

    def __enter__(self) -> _DownloadProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.update()
        finally:
            self._bar.__exit__(*error)

    def update(self) -> None:
        """Show the file's size. Raises `Failure("timeout")` if it has not changed for the timeout of a call."""
        size, now = _get_size(self._archive), time.monotonic()
        if size != self._size:
            self._bar.move_to(size)
            self._size, self._changed = size, now
        elif now - self._changed > self._budget.timeout:
            raise Failure("timeout", f"no data received for {now - self._changed:.0f} s")


def _verify(archive: Path, remote: dict[str, Any]) -> None:
    """Compare size and MD5 with the server's. The files inside are verified by their checksums during unpacking."""
    if remote["size"] is not None and _get_size(archive) != remote["size"]:
        raise Failure("damaged", f"{archive.name} has {_get_size(archive)} bytes; expected {remote['size']}")
    if remote["md5"]:
        with open(archive, "rb") as file:
            digest = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        if digest != remote["md5"]:
            raise Failure("damaged", f"{archive.name} differs from the server's MD5")


def _unpack(archive: Path, out: Path) -> None:
    """Unpack all files into `out`, except those that already exist with the same checksum."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            targets = [(entry, _find_target(out, entry, archive)) for entry in zipped.infolist() if not entry.is_dir()]
            missing = [(entry, target) for entry, target in targets if not _matches(target, entry)]
            total = sum(entry.file_size for entry, _ in missing)
            _check_free_space(out, total, "the unpacked files")
            with ProgressBar("unpacking", total) as bar:
                for entry, target in missing:
                    with zipped.open(entry) as source:
                        _extract(source, target, bar)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError) as error:
        # Damaged bytes can look like encryption (RuntimeError), an unsupported compression method (its subclass
        # NotImplementedError), a name that is not UTF-8 (ValueError), or an offset before the file's start (OSError).
        if isinstance(error, OSError) and (error.filename or error.errno not in (None, errno.EINVAL)):
            raise
        archive.unlink(missing_ok=True)
        message = f"{archive.name} is damaged ({error}) and was removed: run the same command again"
        raise Failure("archive", message) from None


def _find_target(out: Path, entry: zipfile.ZipInfo, archive: Path) -> Path:
    """Return where to unpack an entry. Raises `Failure` if that is outside `out` or if the entry is a symbolic link."""
    # The name as stored in the archive: ZipInfo.filename is sanitized.
    name = entry.orig_filename
    path = PurePosixPath(name.replace("\\", "/"))
    target = out.joinpath(*path.parts)
    unsafe = not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name
    if unsafe or stat.S_ISLNK(entry.external_attr >> 16) or not target.resolve().is_relative_to(out.resolve()):
        raise Failure("archive", f"{archive.name} has an entry {name!r} that would leave {out}: nothing was unpacked")
    return target


def _matches(path: Path, entry: zipfile.ZipInfo) -> bool:
    """Whether the file exists and has the size and checksum of the entry."""
    if _get_size(path) != entry.file_size or not path.is_file():
        return False
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == entry.CRC


def _extract(source: IO[bytes], target: Path, bar: ProgressBar) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        with open(partial, "wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                bar.advance(len(chunk))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _check_free_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: not enough space for {what}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; free some "
            f"space or choose another --out"
        )


def _get_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
