"""The ledger, `submissions.jsonl`: one event per line, append-only, valid even if a process is killed while writing.

An attempt sends one file once. Its events, in the order in which they happen:

    attempt    written and flushed to disk before anything is sent: id, file hash, description, the blend's results
    unclear    sending ended without a definite answer: a submission may exist
    submitted  the submission exists and has this ref (`how`: `answer` if Kaggle returned the ref, `listed` if it was
               found in Kaggle's submission list)
    failed     no submission exists, for this reason
    score      status, scores and error text as given by Kaggle

An attempt without `submitted` or `failed` is open: a process was killed or an answer was lost. This module reads and
writes events; it makes no calls to Kaggle.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from filelock import BaseFileLock, FileLock, Timeout
from msgspec import Meta, Struct

from registry.errors import InputError, describe_os_error
from registry.files import check_writable
from registry.json_files import convert, read_json_lines
from registry.redaction import redact_all
from submit.check import BlendResults

_APPEND_S = 60
_ADVICE = "correct the line, or restore the ledger"


@dataclass(frozen=True)
class Attempt:
    """The state of an attempt after all events with its id."""

    id: str
    competition: str
    file: str
    sha256: str
    time: float
    """When the attempt was recorded, in seconds since the epoch, by a clock that may be wrong."""
    message: str = ""
    blend: dict[str, Any] = field(default_factory=dict)
    """The blend's results: recipe, oof, nested, dev, parameters, tags."""
    state: str = "open"
    """`open`, `submitted` or `failed`."""
    ref: int | None = None
    status: str = ""
    public_score: str = ""
    private_score: str = ""
    reason: str = ""

    @property
    def date(self) -> str:
        """When the attempt was recorded, in local time to the minute."""
        return datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M")


def append(path: Path, event: str, id: str, **values: Any) -> None:
    """Append one event under a lock and in a single write, without secrets, and flush it to disk."""
    now = datetime.now(UTC)
    line = {"event": event, "id": id, "at": now.isoformat(timespec="seconds"), "epoch": now.timestamp()}
    line |= redact_all(values)
    # Surrogates, as in a file name that is not UTF-8, become question marks: as escapes, they would be refused by the
    # next reader.
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _appending(path), open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data  # do not merge with a line truncated by a crash
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def read_attempts(path: Path) -> list[Attempt]:
    """Read all attempts, oldest first. Incomplete lines are skipped; a ledger that does not exist has no attempts."""
    attempts: dict[str, Attempt] = {}
    for event in _read_events(path):
        if isinstance(event, _Attempted):
            attempts[event.id] = Attempt(
                event.id, event.competition, event.file, event.sha256, event.epoch, event.message, event.blend
            )
        elif event.id in attempts:
            attempts[event.id] = _apply_event(attempts[event.id], event)
    return list(attempts.values())


class _Event(Struct):
    """The fields of every line; events that only a later version knows are ignored."""

    event: str
    id: str
    epoch: Annotated[float, Meta(ge=0, le=2**36)]


class _Attempted(_Event):
    competition: str
    file: str
    sha256: str
    message: str = ""
    blend: dict[str, Any] = msgspec.field(default_factory=dict)


class _Submitted(_Event):
    ref: int


class _Failed(_Event):
    reason: str


class _Unclear(_Event):
    reason: str


class _Scored(_Event):
    status: str | None = None
    public_score: str | None = None
    private_score: str | None = None
    reason: str | None = None


_SCHEMAS: dict[str, type[_Event]] = {
    "attempt": _Attempted,
    "submitted": _Submitted,
    "failed": _Failed,
    "unclear": _Unclear,
    "score": _Scored,
}


def _apply_event(attempt: Attempt, event: _Event) -> Attempt:
    match event:
        case _Submitted():
            return replace(attempt, state="submitted", ref=event.ref)
        case _Failed():
            return replace(attempt, state="failed", reason=event.reason)
        case _Unclear():
            return replace(attempt, reason=event.reason)
        case _Scored():
            return replace(
                attempt,
                status=event.status or "",
                public_score=event.public_score or "",
                private_score=event.private_score or "",
                reason=event.reason or "",
            )
    return attempt


def _read_events(path: Path) -> Iterator[_Event]:
    """Yield the events, validated against their schemas. Raises InputError, naming the line, for a damaged one.

    Skipping a damaged line could lead to sending a file twice.
    """
    try:
        lines = read_json_lines(path, dict[str, Any], any_torn=True)
    except FileNotFoundError:
        return
    for line in lines:
        where = f"{path}, event {line.get('event')!r} of attempt {line.get('id')!r}"
        kind = convert(line, _Event, where, _ADVICE).event
        event = convert(line, _SCHEMAS.get(kind, _Event), where, _ADVICE)
        if isinstance(event, _Attempted):
            convert(event.blend, BlendResults, f"{where}, blend", _ADVICE)
        yield event


def check_ledger(path: Path) -> None:
    """Raise `InputError` if the ledger cannot be read or written, before anything is sent."""
    check_writable(path)
    read_attempts(path)
    if path.exists():
        try:
            open(path, "ab").close()
        except OSError as error:
            raise InputError(describe_os_error(error, path)) from None


def _lock(path: Path, kind: str) -> BaseFileLock:
    """The lock next to the file at `path`, or next to its target if it is a symbolic link.

    A lock of the operating system: a lock file whose mere existence counts would outlive a killed process.
    """
    return FileLock(f"{os.path.realpath(path)}.{kind}", fallback_to_soft=False)


def _acquire(lock: BaseFileLock, timeout: float) -> None:
    """Acquire the lock. Raises Timeout, or InputError if the file system does not support locks."""
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise InputError(
            f"{lock.lock_file}: this file system has no locks, without which a file could be sent twice: put both "
            "--ledger-file and XDG_STATE_HOME on a local disk"
        ) from None


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[None]:
    """Hold the lock for appending, which every process holds only briefly."""
    lock = _lock(path, "lock")
    try:
        _acquire(lock, _APPEND_S)
    except Timeout:
        advice = "end it, then repeat this"
        raise InputError(f"{lock.lock_file}: held by another process for {_APPEND_S} s: {advice}") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def sending_lock(path: Path, wait: Callable[[int], None]) -> Iterator[None]:
    """Hold the exclusive right to send with a ledger, or with a folder of pending attempts, at `path`.

    While another process holds it, call `wait(waits)`, with the number of earlier waits, and retry. The operating
    system releases the lock even if its holder is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, "sending")
    waits = 0
    while True:
        with contextlib.suppress(Timeout):
            _acquire(lock, 0)
            break
        wait(waits)
        waits += 1
    try:
        yield
    finally:
        lock.release()
