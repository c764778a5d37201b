"""One (model, fold, seed), from the data to its run folder: train, predict, write.

It can be killed at any moment and run again; a finished run is left unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from folds.data.dataset import Dataset
from folds.data.speaker_folds import speaker_folds
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.json_files import write_json
from folds.store.run_folder import RunFolder
from folds.training.device import pick_device
from folds.training.distributed import ProcessGroup
from folds.training.loop import fit
from folds.training.metrics_logger import cpu_minutes
from folds.training.options import TrainOptions
from folds.training.predict import write_predictions
from folds.training.run_config import check_same_run, run_config, weights_description
from folds.training.task import Start, TrainingTask, long_enough
from folds.training.warm_restart import open_source
from models import CTCModel, create_model, write_weights
from models.weights_file import load_weights
from registry import InputError
from registry.config import Config


def train_fold_model(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, config: Config, group: ProcessGroup
) -> RunFolder:
    """Train model `name` with `config` on all folds but `fold` and write its folder; returns that folder.

    Raises InputError for a run that was started before and is not resumed, or resumed with other settings; for
    utterances too short for their labels; for predictions that are not finite.
    """
    folder = RunFolder.of(options.runs, name, fold, options.seed, options.folds)
    torch.manual_seed(options.seed)
    model = create_model(name, config)
    # Without it, DistributedDataParallel would wait for the gradient of a layer that no loss reads.
    model.use_intermediate(options.recipe.intermediate > 0)
    record = run_config(options, dataset, name, fold, config, model)
    started = read_fold_model(folder) if folder.begun else None
    if started is not None:
        check_same_run(started, record)
        if folder.finished:
            print(f"{folder.path}: already finished, left unchanged")
            return folder
        if folder.checkpoints and not options.resume:
            raise InputError(
                f"{folder.path}: started before and not finished: pass --resume to continue it, or delete the folder"
            )
    held_out, fitted = _split(options, dataset, fold, model)
    start = _starting_point(options, started, record, model, [dataset.train.ids[row] for row in held_out])
    task = TrainingTask(
        dataset=dataset,
        fitted=fitted,
        held_out=held_out,
        recipe=options.recipe,
        seed=options.seed,
        device=pick_device(options.device, group),
        folder=folder,
        group=group,
        start=start,
    )
    group.wait()  # all have looked at the folder before the first process writes to it
    if group.first:
        write_json(folder.config, record)
        if start == "given":
            print(f"{folder.title}: warm restart from {record['restart']['from']}", flush=True)
    model.to(task.device)
    fit(model, task)
    if group.first:
        _write_results(model, task, record)
    group.wait()
    return folder


def _split(options: TrainOptions, dataset: Dataset, fold: int, model: CTCModel) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the train split: (the fold that is held out, the utterances to fit)."""
    fold_of = speaker_folds(dataset.train, options.folds)
    others = np.flatnonzero(fold_of != fold)[: options.recipe.limit]
    return np.flatnonzero(fold_of == fold), long_enough(model, dataset, others, options.skip_bad)


def _starting_point(
    options: TrainOptions, started: FoldModel | None, record: dict[str, Any], model: CTCModel, held_out: list[str]
) -> Start:
    """Where training starts; for a warm restart, loads the source's weights and records the source in `record`."""
    start: Start = "random"
    if started is not None and started.config.get("restart") and started.folder.checkpoints:
        start = "checkpoint"  # the source is not needed any more, and may be gone
        record["restart"] = started.config["restart"]
    elif options.restart_from is not None:
        source = open_source(options.restart_from, record, held_out)
        load_weights(source.weights, model)
        start = "given"
        record["restart"] = source.facts
    if record["restart"] is not None and record["restart"]["select"] == "best":
        record["select"] = "best"  # weights chosen by held-out distance make this run's distances optimistic, too
    return start


def _write_results(model: CTCModel, task: TrainingTask, record: dict[str, Any]) -> None:
    """Write the weights that predict, whichever they are, and the predictions."""
    folder = task.folder
    write_weights(folder.weights, model, weights_description(record, task.dataset.alphabet))
    minutes = cpu_minutes(folder) + (record["restart"]["cpu_minutes"] if record["restart"] else 0.0)
    frames = task.recipe.batch_frames
    write_predictions(
        model, task.dataset, task.held_out, folder, frames=frames, device=task.device, cpu_minutes=minutes
    )
