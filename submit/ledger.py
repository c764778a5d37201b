"""The ledger, `submissions.jsonl`: one event per line, append-only, valid no matter when a process is killed.

An attempt sends one file once. Its events, in the order in which they happen:

    attempt    written and flushed to disk before anything is sent: id, file hash, description, the blend's results
    unclear    sending ended without a definite answer: a submission may exist
    submitted  it exists and has this ref (`how`: from Kaggle's answer, or found in the list of submissions)
    failed     it does not exist, and the reason
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
from typing import Any

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Attempt:
    """The state of an attempt after all events with its id."""

    id: str
    competition: str
    file: str
    sha256: str
    time: float
    """When the attempt was written, in seconds since the epoch."""
    sent_before: float
    """The attempt was sent before this time, if at all; in seconds since the epoch."""
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
        """The local time of the attempt, to the minute."""
        return datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M")


def append(path: Path, event: str, id: str, **values: Any) -> None:
    """Append one event: under a lock, in a single write, flushed to disk before this returns."""
    now = datetime.now(UTC)
    line = {"event": event, "id": id, "at": now.isoformat(timespec="seconds"), "epoch": now.timestamp(), **values}
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data  # a line torn by a crash must not merge with this one
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def read_attempts(path: Path) -> list[Attempt]:
    """All attempts, oldest first. Torn lines are skipped; a ledger that does not exist has no attempts."""
    attempts: dict[str, Attempt] = {}
    for event in _events(path):
        id = event["id"]
        if event["event"] == "attempt":
            attempts[id] = Attempt(
                id, event["competition"], event["file"], event["sha256"], event["epoch"],
                event["epoch"] + event.get("limit", 0.0), event.get("message", ""), event.get("blend", {}),
            )
        elif id in attempts:
            attempts[id] = _updated(attempts[id], event)
    return list(attempts.values())


def _updated(attempt: Attempt, event: dict[str, Any]) -> Attempt:
    match event["event"]:
        case "submitted":
            return replace(attempt, state="submitted", ref=event["ref"])
        case "failed":
            return replace(attempt, state="failed", reason=event["reason"])
        case "unclear":
            return replace(attempt, sent_before=event["epoch"], reason=event["reason"])
        case "score":
            scores: dict[str, Any] = {
                key: event.get(key) or "" for key in ("status", "public_score", "private_score", "reason")
            }
            return replace(attempt, **scores)
    return attempt


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"event", "id", "epoch"} <= event.keys():
                yield event


@contextlib.contextmanager
def sending_lock(path: Path, wait: Callable[[int], None]) -> Iterator[None]:
    """Hold the exclusive right to send under this ledger; while another process holds it, call `wait(waits)` and retry.

    `waits` counts the waits so far. The operating system releases the lock when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.sending")
    waits = 0
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            break
        wait(waits)
        waits += 1
    try:
        yield
    finally:
        lock.release()
