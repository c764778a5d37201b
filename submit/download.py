"""A competition's data through the official client: resumed, verified, and unpacked inside one folder or not at all.

The client fetches the zip and can resume it; it does not verify, skips a file of equal size and time whatever is in it,
and unpacks without a look at the names. Those three are done here. `DIR/.download.json` remembers which version of the
zip was fetched and unpacked, so that a second run has nothing to do. What the data means is `folds.competition`'s.
"""

from __future__ import annotations

import base64
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

from tqdm import tqdm

from registry.errors import InputError, atomic_write
from submit.client import TRIES, Client, Failure, Patience

_CHUNK = 1 << 20


def download(client: Client, patience: Patience, competition: str, out: Path, say: Callable[[str], None]) -> None:
    """Fetch and unpack a competition's data into `out`. Raises `Failure`; `InputError` when the disk is too small."""
    offered = client.ask("archive", patience, competition=competition)
    archive, record = out / f"{competition}.{offered['suffix']}", out / ".download.json"
    state = _state(record, offered)
    if state == "unpacked":
        say(f"{out} holds this version already; delete {record} to fetch it again")
        return
    out.mkdir(parents=True, exist_ok=True)
    if state != "fetched" or not archive.is_file():
        _fetch(client, patience, competition, archive, offered)
        _remember(record, offered, "fetched")
    _unpack(archive, out)
    _remember(record, offered, "unpacked")
    say(f"{archive} is verified and unpacked, and may be deleted")


def _state(record: Path, offered: dict[str, Any]) -> str:
    """How far an earlier run came with the version offered now: `""`, `fetched` or `unpacked`."""
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return ""
    return known.get("state", "") if all(known.get(key) == value for key, value in offered.items()) else ""


def _remember(record: Path, offered: dict[str, Any], state: str) -> None:
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps({**offered, "state": state}))


def _fetch(client: Client, patience: Patience, competition: str, archive: Path, offered: dict[str, Any]) -> None:
    """Bring the zip to the disk whole, in as many tries as make progress."""
    marker = archive.with_name(archive.name + ".kaggle-partial")
    turn = 0
    while True:
        # Only beside its marker is a file a part the client can prove to be of this version; any other is overwritten.
        force = not marker.exists()
        have = 0 if force else _size(archive)
        if offered["size"] is not None:
            _room(archive.parent, offered["size"] - have, "the zip")
        try:
            with _Progress(archive, offered["size"], have, patience) as progress:
                client.call(
                    "download", patience, patience.left, watch=progress.look,
                    competition=competition, folder=str(archive.parent), force=force,
                )
            _verify(archive, offered)
            return
        except Failure as failure:
            if failure.kind == "damaged":
                archive.unlink(missing_ok=True)
                marker.unlink(missing_ok=True)
            elif not failure.passing:
                raise
            # A stop after some progress is no reason to give up, however many there are.
            turn = 0 if _size(archive) > have else turn + 1
            if turn >= TRIES:
                raise
            patience.rest(turn, failure)


class _Progress:
    """A bar that follows the file's size, and a stop for a download that stands still."""

    def __init__(self, archive: Path, size: int | None, have: int, patience: Patience) -> None:
        self._archive, self._patience = archive, patience
        self._bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=archive.name)
        self._last, self._moved = have, time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._bar.close()

    def look(self) -> None:
        size, now = _size(self._archive), time.monotonic()
        if size != self._last:
            self._bar.update(size - self._last)
            self._last, self._moved = size, now
        elif now - self._moved > self._patience.timeout:
            raise Failure("timeout", f"no byte within {now - self._moved:.0f} s")


def _verify(archive: Path, offered: dict[str, Any]) -> None:
    """Size and MD5 as the server told them; what is inside is verified by its checksums as it is unpacked."""
    if offered["size"] is not None and _size(archive) != offered["size"]:
        raise Failure("damaged", f"{archive.name} has {_size(archive)} bytes; expected {offered['size']}")
    if offered["md5"]:
        with open(archive, "rb") as file:
            digest = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        if digest != offered["md5"]:
            raise Failure("damaged", f"{archive.name} differs from the server's MD5")


def _unpack(archive: Path, out: Path) -> None:
    """Unpack every member inside `out`; one that is there already, with the same checksum, is left alone."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [(member, _inside(out, member, archive)) for member in packed.infolist() if not member.is_dir()]
            missing = [(member, target) for member, target in members if not _same(member, target)]
            _room(out, sum(member.file_size for member, _ in missing), "the unpacked files")
            total = sum(member.file_size for member, _ in missing)
            with tqdm(total=total, unit="B", unit_scale=True, desc="unpacking") as bar:
                for member, target in missing:
                    with packed.open(member) as source:
                        _write(source, target, bar)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        archive.unlink(missing_ok=True)
        line = f"{archive.name} is damaged ({error}) and was removed: run the same command again"
        raise Failure("archive", line) from None


def _inside(out: Path, member: zipfile.ZipInfo, archive: Path) -> Path:
    """Where a member goes. `Failure` for one that would be written outside `out`, or that is no plain file."""
    # The name as the archive has it: ZipInfo.filename is already mended.
    name = member.orig_filename
    path = PurePosixPath(name.replace("\\", "/"))
    target = out.joinpath(*path.parts)
    strange = not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name
    if strange or stat.S_ISLNK(member.external_attr >> 16) or not target.resolve().is_relative_to(out.resolve()):
        raise Failure("archive", f"{archive.name} has a member {name!r} that would leave {out}: nothing was unpacked")
    return target


def _same(member: zipfile.ZipInfo, target: Path) -> bool:
    if _size(target) != member.file_size or not target.is_file():
        return False
    checksum = 0
    with open(target, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


def _write(source: IO[bytes], target: Path, bar: tqdm) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with open(part, "wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _room(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: no room for {what}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; make room or "
            f"choose another --out"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
