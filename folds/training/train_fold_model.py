"""One (model, fold, seed), from the data to its run folder: train, predict, write.

It can be killed at any moment and run again; a finished run is left unchanged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, fold_model_of
from folds.store.lease import Lease, delete_dead, hold
from folds.store.run_folder import RunFolder
from folds.training.cost import Cost
from folds.training.device import pick_device
from folds.training.distributed import ProcessGroup
from folds.training.guide import open_guide
from folds.training.loggers.base import logger_names
from folds.training.loop import fit
from folds.training.memory import BatchTooLarge, MemoryRanOut, estimated_bytes, free_memory, release_gpu_memory
from folds.training.options import TrainOptions
from folds.training.predict import write_predictions
from folds.training.preparation import (
    add_group_layer,
    check_group_layer,
    resolve_options,
    split_fold,
    training_data,
)
from folds.training.resumption import check_same_hardware, check_same_processes, check_same_run, started_run
from folds.training.run_config import count_parameters, describe_hardware, run_config, weights_description
from folds.training.task import Start, TrainingTask, check_batch_frames, describe_run
from folds.training.teacher import open_teacher, student_targets
from folds.training.threads import SMALL_MODEL, CPUThreads
from folds.training.warm_restart import open_source
from models import CTCModel, create_model, write_weights
from models.weights_file import load_weights
from registry import InputError, is_model
from registry.config import Config
from registry.errors import is_out_of_memory
from registry.json_files import write_json


@dataclass(frozen=True)
class _RunSpec:
    """What to train, and with which processes; the arguments of `train_fold_model`."""

    options: TrainOptions
    dataset: Dataset
    name: str
    fold: int
    config: Config
    group: ProcessGroup

    @property
    def folder(self) -> RunFolder:
        return self.options.run_folder(self.name, self.fold)


def train_fold_model(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, config: Config, group: ProcessGroup
) -> RunFolder:
    """Train model `name` with `config` on all folds but `fold` and write its folder; returns that folder.

    If batches of the default size would probably not fit into the free memory of a GPU (`estimated_bytes`), they have
    half the frames, and two of them make a step. If one does not fit all the same, a run with the default size starts
    over in this way. If half the size does not fit either, if the size was given, or with several processes, this
    raises InputError; if the run already has checkpoints, MemoryRanOut. Also raises InputError for a run that another
    process trains, that was started before and is not resumed, or that is resumed with other settings; for utterances
    too short for their labels, or longer than --batch-frames; and for non-finite predictions.
    """
    spec = _RunSpec(options, dataset, name, fold, config, group)
    with _lease(spec.folder, group) as lease:
        _train_in_memory(spec, lease)
    return spec.folder


@contextlib.contextmanager
def _lease(folder: RunFolder, group: ProcessGroup) -> Iterator[Lease | None]:
    """The lease of a run, in the process that writes its files; None in others, and for a finished run.

    If the lease is refused, all processes of the group end.
    """
    with contextlib.ExitStack() as stack:
        lease, refused = None, None
        try:
            if group.first and folder.finished:
                delete_dead(folder.path)  # killed after its last file
            elif group.first:
                lease = stack.enter_context(hold(folder.path, folder.title))
        except (InputError, OSError) as error:
            refused = error
        if group.any(refused is not None):
            raise refused or InputError(f"{folder.path}: the first process could not start this run")
        yield lease


def _train_in_memory(spec: _RunSpec, lease: Lease | None) -> None:
    """Like `train_fold_model`, once this process holds the lease."""
    folder = spec.folder
    by_default = spec.options.recipe.batch_frames is None
    started = started_run(folder)
    release_gpu_memory()
    halved = by_default and (_should_halve(spec) if started is None else started.config.hardware.halved)
    while True:
        try:
            _train_once(spec, lease, halved)
            return
        except BatchTooLarge as error:
            smaller = f"delete {folder.path} and train with {error.smaller}"
            if folder.checkpoints:
                again = "when other programs have freed some, continue with the same command and --resume"
                raise MemoryRanOut(
                    f"{error} any more, though earlier ones did: {again}; if it fails again, {smaller}"
                ) from None
            if halved or not by_default or spec.group.size > 1:
                raise InputError(f"{error}: {smaller}") from None
            print(f"{error}: starting again with half of that, two batches per step", flush=True)
            folder.config.unlink()
        halved = True
        release_gpu_memory()


def _should_halve(spec: _RunSpec) -> bool:
    """Whether batches of the default size would probably not fit into the free memory of a process's GPU; says so."""
    options, group = spec.options, spec.group
    device = pick_device(options.device, group)
    free = free_memory(device)
    too_large = False
    if not math.isinf(free):
        model = create_model(spec.name, spec.config)
        _, recipe = resolve_options(options, device, group, model, halved=False)
        too_large = estimated_bytes(model, spec.dataset.features, recipe) > free
    halve = group.any(too_large)
    if halve and group.first:
        frames = options.recipe.sized_for(device.type, group.size).batch_frames
        print(
            f"{spec.folder.title}: batches of {frames} frames would probably not fit into the GPU's free memory: "
            "starting with half of that, two batches per step (--batch-frames sets another size)",
            flush=True,
        )
    return halve


def _train_once(spec: _RunSpec, lease: Lease | None, halved: bool) -> None:
    """Like `train_fold_model`; with `halved`, in batches of half the default frames, two of them per step."""
    options, dataset, folder, group = spec.options, spec.dataset, spec.folder, spec.group
    check_group_layer(options, dataset)
    device = pick_device(options.device, group)
    torch.manual_seed(options.seed)
    model = create_model(spec.name, spec.config)
    # Without this, DistributedDataParallel would wait for the gradient of a layer that no loss uses.
    model.use_intermediate(options.recipe.intermediate > 0)
    threads = CPUThreads.of_run(options, count_parameters(model), device, group)
    given_frames = options.recipe.batch_frames
    options, recipe = resolve_options(options, device, group, model, halved)
    hardware = describe_hardware(recipe, device, group, threads) | {"halved": halved}
    record = run_config(options, dataset, spec.name, spec.fold, spec.config, model, hardware)
    run = fold_model_of(folder, record)
    guide = None
    if options.guide is not None:
        guide = open_guide(options.guide, run)
        record["guide"] = guide.facts
    teacher = None
    if options.teacher is not None:
        teacher = open_teacher(options.teacher, options.teacher_test, run.config)
        record["teacher"] = teacher.facts
    started = started_run(folder)
    if started is not None and _already_finished(options, started, record):
        return
    training = len(dataset.train)
    dataset = training_data(options, dataset, teacher)
    held_out, fitted = split_fold(options, dataset, spec.fold, model)
    record["group_layer"] = add_group_layer(model, options, dataset, fitted)
    record["parameters"] = count_parameters(model)
    if given_frames is not None:
        check_batch_frames(given_frames, dataset.train, fitted)
    start = _starting_point(options, started, record, model, [dataset.train.ids[row] for row in held_out])
    task = TrainingTask(
        dataset=dataset,
        fitted=fitted,
        held_out=held_out,
        recipe=recipe,
        seed=options.seed,
        device=device,
        folder=folder,
        group=group,
        start=start,
        with_dev=options.with_dev,
        save_minutes=options.save_every,
        threads=threads,
        loggers=logger_names(options.log),
        guide=guide,
        student_targets=None if teacher is None else student_targets(teacher, dataset.train, training),
        lease=lease,
    )
    _train(model, task, record, fresh=started is None)


def _already_finished(options: TrainOptions, started: FoldModel, record: dict[str, Any]) -> bool:
    """Whether the run is finished and is left unchanged. Raises InputError if it cannot be continued."""
    folder = started.folder
    if not folder.finished:
        check_same_processes(started, record)
    check_same_run(started, record)
    if folder.finished:
        print(f"{folder.path}: already finished, left unchanged")
        return True
    if folder.checkpoints and not options.resume:
        raise InputError(
            f"{folder.path}: started before and not finished: pass --resume to continue it, or delete the folder"
        )
    check_same_hardware(started, record)
    return False


def _train(model: CTCModel, task: TrainingTask, record: dict[str, Any], fresh: bool) -> None:
    """Train, predict, write; a `fresh` run was not started before."""
    folder, group = task.folder, task.group
    group.wait()  # the first process writes only after all have read the folder
    if group.first:
        if fresh:
            folder.discard_beginning()
        write_json(folder.config, record)
        if task.start == "given":
            print(f"{folder.title}: warm restart from {record['restart']['from']}", flush=True)
        if task.guide is not None:
            print(f"{folder.title}: guided by {task.guide.facts['from']}", flush=True)
        if task.student_targets is not None:
            taught = f"hypotheses of {task.student_targets.taught} of {len(task.student_targets)} utterances"
            print(f"{folder.title}: taught by {record['teacher']['from']}, {taught}", flush=True)
        print(f"{folder.title}: {describe_run(task, record)}", flush=True)
        small = f"{record['model']}_small"
        if task.device.type == "cpu" and record["parameters"] > SMALL_MODEL and is_model(small):
            print(f"warning: models of this size are for GPUs: on a CPU, train {small}", file=sys.stderr, flush=True)
    try:
        model.to(task.device)
        if task.guide is not None:
            task.guide.network.to(task.device)
        fit(model, task)
        if group.first:
            _write_results(model, task, record)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        device, frames = record["hardware"]["device_name"], task.recipe.batch_frames
        message = f"{folder.title}: batches of {frames} frames do not fit into the memory of {device}"
        raise BatchTooLarge(message, task.recipe) from None
    group.wait()


def _starting_point(
    options: TrainOptions, started: FoldModel | None, record: dict[str, Any], model: CTCModel, held_out: list[str]
) -> Start:
    """Where training starts; for a warm restart, loads the source's weights and records the source in `record`."""
    start: Start = "random"
    if started is not None and started.config.restart is not None and started.folder.checkpoints:
        start = "checkpoint"  # the source is no longer needed, and may be gone
        record["restart"] = started.recorded["restart"]
    elif options.restart_from is not None:
        run = fold_model_of(options.run_folder(record["model"], record["fold"]), record)
        source = open_source(options.restart_from, run, held_out)
        load_weights(source.weights, model)
        start = "given"
        record["restart"] = source.facts
    sources = [record[name] for name in ("restart", "guide", "teacher") if record[name] is not None]
    if any(source.get("select") == "best" for source in sources):
        record["select"] = "best"  # weights chosen by held-out distance make this run's distances optimistic, too
    record["tags"] = list(dict.fromkeys([*record["tags"], *(tag for it in sources for tag in it.get("tags", []))]))
    return start


def _write_results(model: CTCModel, task: TrainingTask, record: dict[str, Any]) -> None:
    """Write the weights used for prediction, and the predictions."""
    task.check_lease()
    folder = task.folder
    write_weights(folder.weights, model, weights_description(fold_model_of(folder, record), task.dataset.alphabet))
    cost = Cost.of_run(folder)
    if record["restart"]:
        cost = dataclasses.replace(cost, cpu_minutes=cost.cpu_minutes + record["restart"]["cpu_minutes"])
    write_predictions(
        model,
        task.dataset,
        task.held_out,
        folder,
        frames=task.recipe.batch_frames,
        device=task.device,
        cost=cost,
        with_dev=task.with_dev,
        check=task.check_lease,
    )
