"""The state of runs, read from their folders alone, so that it is known on any machine that sees them."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from folds.store.attempts import TrainingAttempt, read_attempts
from folds.store.lease import holder_of
from folds.store.run_folder import RunFolder, folders_of_runs
from folds.store.schemas import EpochMetrics, EpochTiming, SummaryFile
from registry import InputError
from registry.files import exists
from registry.json_files import read_json, read_json_lines

T = TypeVar("T")
Default = TypeVar("Default")

State = Literal["training", "starting", "queued", "stopped", "failed", "waiting", "finished"]
"""In the order of the status table: `starting` before it has the lease, `queued` by a scheduler, `stopped` before its
end, `waiting` for a first attempt."""
STATES: tuple[State, ...] = typing.get_args(State)
START_S = 300.0
"""A process that has not taken the lease after this many seconds must have ended without an error message."""


@dataclass(frozen=True)
class RunStatus:
    """The status of a run, as its folder shows it."""

    folder: RunFolder
    state: State
    epoch: int = 0
    """The last epoch with metrics."""
    epochs: int | None = None
    """How many epochs there will be; None if it has not started, or ends after a number of minutes."""
    distance: float | None = None
    """The held-out distance; once finished, the out-of-fold distance, or that on dev if nothing was held out."""
    frames_per_s: float | None = None
    hours_left: float | None = None
    """Hours of training left after its last epoch; None until the duration of an epoch is known."""
    place: str = ""
    """Where it runs, or what it is waiting for."""
    reason: str = ""
    """Why it failed."""


class _RunRecipe(msgspec.Struct, frozen=True):
    epochs: int | None = None
    minutes: float | None = None
    clock: str = "wall"


class _Options(msgspec.Struct, frozen=True):
    recipe: _RunRecipe = _RunRecipe()


class _Config(msgspec.Struct, frozen=True):
    """The entries of config.json that set the length of training."""

    options: _Options = _Options()


def attempts_at(folder: RunFolder) -> list[TrainingAttempt]:
    """The attempts in a run's attempts.jsonl; none if it is damaged."""
    return _readable(lambda: read_attempts(folder.attempts), [])


def read_status(folder: RunFolder, earlier: int = 0) -> RunStatus:
    """The status of a run. Files that are being written, or damaged, count as missing.

    The first `earlier` lines of its attempts are from previous launches, whose failures do not count.
    """
    attempts = attempts_at(folder)
    metrics = _rows(folder.metrics, EpochMetrics)
    timing = _rows(folder.timing, EpochTiming)
    recipe = _readable(lambda: read_json(folder.config, _Config), _Config()).options.recipe
    epochs = recipe.epochs if recipe.minutes is None else None
    frames_per_s = timing[-1].frames_per_s if timing else None
    state, place, reason = _state(folder, attempts, earlier)
    hours_left = 0.0 if state == "finished" else None
    if timing and (state == "training" or (state != "finished" and folder.checkpoints)):
        minutes = sum(row.wall_s for row in timing) / 60
        if recipe.minutes is not None:
            used = sum(row.cpu_s for row in timing) / 60 if recipe.clock == "cpu" else minutes
            hours_left = max(0.0, recipe.minutes - used) / 60
        elif epochs is not None:
            hours_left = max(0, epochs - len(timing)) * minutes / len(timing) / 60
    distance = metrics[-1].held_out if metrics else None
    if state == "finished":
        distance, frames_per_s = _final(folder, distance, frames_per_s)
    epoch = metrics[-1].epoch if metrics else 0
    return RunStatus(folder, state, epoch, epochs, distance, frames_per_s, hours_left, place, reason)


def known_runs(runs: Path) -> list[RunFolder]:
    """Every run that was submitted or started under `runs`. Raises InputError if there is no such folder."""
    if not runs.is_dir():
        raise InputError(f"{runs}: no such runs folder: pass --runs, or --models or --plan to start one")
    return [folder for folder in folders_of_runs(runs) if folder.begun or exists(folder.attempts)]


def _state(folder: RunFolder, attempts: list[TrainingAttempt], earlier: int) -> tuple[State, str, str]:
    """(state, place, reason)."""
    if folder.finished:
        return "finished", "", ""
    last = attempts[-1] if attempts else None
    if holder := holder_of(folder.path):
        started = last is not None and last.event == "started"
        job = f", {last.executor} job {last.job}" if last is not None and started and last.job else ""
        return "training", f"{holder.host}, process {holder.pid}{job}", ""
    if last is not None and last.event == "failed" and len(attempts) > earlier:
        return "failed", "", last.reason
    if last is not None and last.event == "started" and time.time() - last.time < START_S:
        return "starting", last.host, ""
    if last is not None and last.event == "submitted":
        return "queued", f"{last.executor} job {last.job}" if last.job else last.executor, ""
    return ("stopped" if folder.begun else "waiting"), "", ""


def _final(folder: RunFolder, distance: float | None, frames_per_s: float | None) -> tuple[float | None, float | None]:
    """A finished run's out-of-fold distance (on dev if nothing was held out) and speed."""
    summary = _readable(lambda: read_json(folder.summary, SummaryFile), None)
    if summary is None:
        return distance, frames_per_s
    greedy = summary.greedy_distance
    final = greedy.get("oof") if greedy.get("oof") is not None else greedy.get("dev")
    return (final if final is not None else distance), summary.frames_per_s or frames_per_s


def _rows(path: Path, schema: type[T]) -> list[T]:
    return _readable(lambda: read_json_lines(path, schema), [])


def _readable(read: Callable[[], T], default: Default) -> T | Default:
    """The result of `read()`, or `default` if the file is missing or damaged."""
    try:
        return read()
    except (InputError, OSError):
        return default
