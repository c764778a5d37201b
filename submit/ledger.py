"""The ledger, `submissions.jsonl`: one event a line, only ever appended, true whatever is killed when.

An attempt is one sending of one file. Its events, in the order they happen:

    attempt    written and on the disk before anything is sent: id, file hash, description, the blend's figures
    unclear    the sending ended without a clear answer: a submission may exist
    submitted  it exists, with this ref (`how`: by Kaggle's answer, or found in the list of submissions)
    failed     it does not exist, and why
    score      status, scores and error text as Kaggle gives them

An attempt without `submitted` or `failed` is open: a process was killed or an answer lost. This module reads and writes
events; it asks Kaggle nothing.
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
    """What the events of one id add up to."""

    id: str
    competition: str
    file: str
    sha256: str
    time: float
    """Seconds since the epoch when the attempt was written."""
    until: float
    """By when it had been sent, if it was at all."""
    message: str = ""
    blend: dict[str, Any] = field(default_factory=dict)
    """The blend's figures: recipe, oof, nested, dev, parameters, tags."""
    state: str = "open"
    """`open`, `submitted` or `failed`."""
    ref: int | None = None
    status: str = ""
    public_score: str = ""
    private_score: str = ""
    reason: str = ""

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.time).strftime("%Y-%m-%d %H:%M")


def append(path: Path, event: str, id: str, **values: Any) -> None:
    """Append one event: under a lock, in a single write, flushed to the disk before this returns."""
    now = datetime.now(UTC)
    line = {"event": event, "id": id, "at": now.isoformat(timespec="seconds"), "epoch": now.timestamp(), **values}
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), open(path, "a+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data  # a line torn by a crash stays a line of its own
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def attempts(path: Path) -> list[Attempt]:
    """All attempts in the order they were made. A torn line is no event; a missing ledger has no attempts."""
    found: dict[str, Attempt] = {}
    for event in _events(path):
        id, known = event["id"], found.get(event["id"])
        if event["event"] == "attempt":
            found[id] = Attempt(
                id, event["competition"], event["file"], event["sha256"], event["epoch"],
                event["epoch"] + event.get("limit", 0.0), event.get("message", ""), event.get("blend", {}),
            )
        elif known is not None:
            found[id] = _after(known, event)
    return list(found.values())


def _after(attempt: Attempt, event: dict[str, Any]) -> Attempt:
    match event["event"]:
        case "submitted":
            return replace(attempt, state="submitted", ref=event["ref"])
        case "failed":
            return replace(attempt, state="failed", reason=event["reason"])
        case "unclear":
            return replace(attempt, until=event["epoch"], reason=event["reason"])
        case "score":
            keys = ("status", "public_score", "private_score", "reason")
            return replace(attempt, **{key: event.get(key) or "" for key in keys})
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
def sending(path: Path, rest: Callable[[int], None]) -> Iterator[None]:
    """Hold the right to send under this ledger; while another process has it, call `rest(turn)` and try again.

    The system drops the lock when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.sending")
    turn = 0
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            break
        rest(turn)
        turn += 1
    try:
        yield
    finally:
        lock.release()
