"""Estimate of the hours that a launch takes: frames to train on, divided by a measured speed."""

from __future__ import annotations

import dataclasses
import heapq
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from folds.data.dataset import Dataset
from folds.data.speaker_folds import assign_folds, speaker_subset
from folds.launching.destination import Destination
from folds.launching.status import RunStatus
from folds.launching.status_table import duration
from folds.launching.tasks import Task
from folds.store.run_folder import RunFolder
from folds.training.device import pick_device, resolve_precision
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe
from folds.training.schedule import Budget
from folds.training.shares import SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import State
from folds.training.step import train_step
from folds.training.task import TrainingTask
from models import create_model
from registry.console import counted, print_table
from registry.errors import is_out_of_memory

PROBE_STEPS = 2
"""Steps that are timed, after an untimed one, if no run of a member shows its speed."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one run has left to train."""

    task: Task
    status: RunStatus
    hours: float | None
    """None if no run shows the speed, and it could not be measured here."""
    basis: str
    """Where the speed comes from."""


def estimate_hours(tasks: Sequence[Task], dataset: Dataset, destination: Destination, probe: bool) -> list[Estimate]:
    """The remaining hours of each run, alone on its share of a machine.

    The speed of a member is taken from one of its runs; without any, and with `probe`, from a few steps here.
    """
    statuses = {task: destination.status(task.folder) for task in tasks}
    # Runs with other folds and seeds, and refits, have the same speed.
    recorded = {_recipe_name(task): speed for task, status in statuses.items() if (speed := status.frames_per_s)}
    measured: dict[str, float | None] = {}
    estimates = []
    for task, status in statuses.items():
        recipe = task.parsed.options.recipe
        if status.state == "finished":
            estimates.append(Estimate(task, status, 0.0, "finished"))
        elif recipe.minutes is not None:
            left = recipe.minutes / 60 if status.hours_left is None else status.hours_left
            estimates.append(Estimate(task, status, left, f"--minutes by {recipe.clock} time"))
        else:
            recipe_name = _recipe_name(task)
            speed, basis = recorded.get(recipe_name), "its other runs"
            if speed is None and probe:
                if recipe_name not in measured:
                    measured[recipe_name] = measure_speed(task, dataset)
                speed, basis = measured[recipe_name], f"{PROBE_STEPS} steps here"
            frames = (recipe.epochs - status.epoch) * frames_per_epoch(task, dataset)
            estimates.append(Estimate(task, status, frames / speed / 3600 if speed else None, basis if speed else ""))
    return estimates


def _recipe_name(task: Task) -> str:
    return task.parsed.options.name or task.model


def frames_per_epoch(task: Task, dataset: Dataset) -> int:
    """Input frames of the utterances that a run trains on."""
    options, lengths = task.parsed.options, dataset.train.lengths
    fold_of = assign_folds(dataset.train, options.folds, options.fold_by)
    fitted = speaker_subset(dataset.train, np.flatnonzero(fold_of != task.fold), options.recipe.speakers)
    more = int(dataset.dev.lengths.sum()) if options.with_dev else 0
    return int(lengths[fitted][: options.recipe.limit].sum()) + more


def measure_speed(task: Task, dataset: Dataset) -> float | None:
    """Frames/s of a few training steps on this machine: on its GPU, or by CPU time on one core.

    None if it runs out of memory: a run would halve its batches.
    """
    try:
        return _measure_speed(task, dataset)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _measure_speed(task: Task, dataset: Dataset) -> float:
    options, group = task.parsed.options, ProcessGroup()
    device = pick_device(options.device, group)
    model = create_model(task.model, task.parsed.config_for(dataset))
    model.use_intermediate(options.recipe.intermediate > 0)
    sized = options.recipe.sized_for(device.type, group.size)
    recipe = TrainingRecipe.of(sized, resolve_precision(sized.precision, device, model))
    run = TrainingTask(
        dataset=dataset,
        fitted=np.arange(len(dataset.train)),
        held_out=np.arange(0),
        recipe=dataclasses.replace(recipe, accumulate=1),
        seed=0,
        device=device,
        folder=RunFolder(Path()),
    )
    torch.set_num_threads(1)
    state = State(model.to(device), run.recipe, device, 0, group)
    model.train()
    shares = epoch_shares(run, state.counters)[: PROBE_STEPS + 1]
    prepare, budget, signals = SharePreparation(run, model.stride), Budget(run.recipe, len(shares)), SignalCatcher()
    started, frames = _now(device), 0
    for number, share in enumerate(shares):
        if number == 1:
            started, frames = _now(device), 0
        train_step(state, run, [(share, prepare(share))], signals, budget)
        frames += share.frames
    return frames / (_now(device) - started)


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()  # not affected by other load
    torch.cuda.synchronize(device)
    return time.perf_counter()


def makespan(hours: Sequence[float], jobs: int) -> float:
    """Hours until the last of several runs ends, if they start in order whenever one of `jobs` places is free.

    >>> makespan([3, 1, 1, 1], jobs=2)
    3.0
    """
    places = [0.0] * max(1, min(jobs, len(hours)))
    for run_hours in hours:
        heapq.heappush(places, heapq.heappop(places) + run_hours)
    return max(places)


def print_estimates(estimates: Sequence[Estimate]) -> None:
    """Print the estimate of each run."""
    header = ("run", "state", "hours", "by the speed of")
    rows = [
        (run.task.title, run.status.state, "?" if run.hours is None else duration(run.hours), run.basis)
        for run in estimates
    ]
    print_table(header, rows)


def describe_total(estimates: Sequence[Estimate], jobs: int) -> str:
    """The hours of all runs together, with `jobs` at the same time."""
    known = [run.hours for run in estimates if run.hours is not None and run.hours > 0]
    unknown = sum(run.hours is None for run in estimates)
    if unknown and not known:
        return f"{counted(unknown, 'run')}: hours unknown, since no run with the same recipe has trained yet"
    total, last = duration(sum(known)), duration(makespan(known, jobs)) if known else duration(0.0)
    together = "one after the other" if jobs == 1 else f"{jobs} at a time"
    least, about = ("at least ", "at least") if unknown else ("", "about")
    notes = f"; {unknown} unknown: no run with the same recipe has trained yet" if unknown else ""
    return (
        f"{counted(len(estimates), 'run')}: {least}{total} of training in all, {about} {last} {together}, prediction "
        f"not included{notes}"
    )
