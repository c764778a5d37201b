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
    """When the attempt was recorded, in seconds since the epoch."""
    sent_before: float
    """The latest time at which the attempt can have been sent, in seconds since the epoch."""
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
    """Append one event under a lock and in a single write, and flush it to disk."""
    now = datetime.now(UTC)
    line = {"event": event, "id": id, "at": now.isoformat(timespec="seconds"), "epoch": now.timestamp(), **values}
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data  # do not merge with a line that a crash cut off
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def read_attempts(path: Path) -> list[Attempt]:
    """Read all attempts, oldest first. Incomplete lines are skipped; a ledger that does not exist has no attempts."""
    attempts: dict[str, Attempt] = {}
    for event in _read_events(path):
        id = event["id"]
        if event["event"] == "attempt":
            attempts[id] = Attempt(
                id, event["competition"], event["file"], event["sha256"], event["epoch"],
                event["epoch"] + event.get("limit", 0.0), event.get("message", ""), event.get("blend", {}),
            )
        elif id in attempts:
            attempts[id] = _apply_event(attempts[id], event)
    return list(attempts.values())


def _apply_event(attempt: Attempt, event: dict[str, Any]) -> Attempt:
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


def _read_events(path: Path) -> Iterator[dict[str, Any]]:
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
    """Hold the exclusive right to send with this ledger; while another process holds it, call `wait(waits)` and retry.

    `waits` is the number of earlier waits. The operating system releases the lock even if its holder is killed.
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
