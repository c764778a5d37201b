"""attempts.jsonl of a run: what `folds.launch` did for it, for any machine that sees the folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Literal

import msgspec

from registry.json_files import read_json_lines

Event = Literal["submitted", "started", "finished", "stopped", "failed", "busy"]
"""`submitted` to a scheduler; `started`, then one of the others. `busy`: another process was training the run."""


class TrainingAttempt(msgspec.Struct, frozen=True):
    """A line of attempts.jsonl."""

    event: Event
    time: float
    """Seconds since 1970."""
    executor: str = ""
    job: str = ""
    """The scheduler's job id."""
    host: str = ""
    reason: str = ""
    """Why it failed, in one line."""
    hopeless: bool = False
    """Whether another attempt would fail in the same way."""
    options: str = ""
    """Hash of the options with which a job was submitted; earlier versions do not record it."""


def record_attempt(
    path: Path,
    event: Event,
    executor: str,
    job: str = "",
    reason: str = "",
    hopeless: bool = False,
    options: str = "",
) -> None:
    """Append a line in a single write, because several machines may append to one file."""
    host = "" if event == "submitted" else os.uname().nodename
    row = TrainingAttempt(event, time.time(), executor, job, host, reason, hopeless, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(msgspec.structs.asdict(row)).encode() + b"\n")


def read_attempts(path: Path) -> list[TrainingAttempt]:
    """The lines, oldest first; none if there is no file. Raises InputError for a damaged one."""
    try:
        return read_json_lines(path, TrainingAttempt, any_torn=True)
    except FileNotFoundError:
        return []
