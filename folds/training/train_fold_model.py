"""One (model, fold, seed), from the data to its folder in the store: fit, predict, summarise.

It can be killed at any moment and run again; a finished run is left alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from folds.data.dataset import Dataset, too_short
from folds.data.speaker_folds import speaker_folds
from folds.store.checkpoint import files as checkpoints
from folds.store.checkpoint import load_weights, save_weights
from folds.store.json_files import read_json, write_json
from folds.store.log_probs import write_log_probs
from folds.store.run_folder import SPLITS, RunFolder, member_name
from folds.training.distributed import ProcessGroup
from folds.training.loop import TrainingTask, fit
from folds.training.metrics_logger import cpu_minutes
from folds.training.options import TrainOptions
from folds.training.predict import greedy_distances, predict
from folds.training.run_config import _check_same, _record
from folds.training.warm_restart import open_source
from models import CTCNetwork
from registry import InputError, create_model, model_config


def train_fold_model(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, settings: dict[str, Any], group: ProcessGroup
) -> Path:
    """Train model `name` on all folds but `fold` and write its folder; returns that folder.

    Raises InputError for a run begun before and not resumed, or resumed with other settings; utterances too short for
    their labels; predictions that are no numbers.
    """
    folder = RunFolder.of(options.runs, name, fold, options.seed, options.folds).path
    config = model_config(name, features=dataset.features, classes=dataset.alphabet.classes, **settings)
    torch.manual_seed(options.seed)
    model: CTCNetwork = create_model(name, **dataclasses.asdict(config))
    record = _record(options, dataset, name, fold, config, model)
    before = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    if before is not None:
        _check_same(folder, before, record, options)
        if all((folder / f"{s}.safetensors").exists() for s in SPLITS):
            print(f"{folder}: finished before, left as it is")
            return folder
    fold_of = speaker_folds(dataset.train, options.folds)
    held_out = np.flatnonzero(fold_of == fold)
    fitted = _fitted(model, dataset, np.flatnonzero(fold_of != fold)[: options.recipe.limit], options.skip_bad)
    start: Literal["random", "given", "checkpoint"] = "random"
    if before is not None and before.get("restart") and checkpoints(folder / "checkpoint"):
        start = "checkpoint"  # the source has done its part, and may be gone
        record["restart"] = before["restart"]
    elif options.restart_from is not None:
        source = open_source(options.restart_from, record, [dataset.train.ids[row] for row in held_out])
        load_weights(source.weights, model)
        start = "given"
        record["restart"] = source.facts
    restart = record["restart"] or {"cpu_minutes": 0.0, "select": "last"}
    if restart["select"] == "best":
        record["select"] = "best"  # what it flatters there, it flatters here
    task = TrainingTask(
        dataset=dataset,
        fitted=fitted,
        held_out=held_out,
        seed=options.seed,
        device=pick_device(options.device, group),
        folder=folder,
        title=f"{member_name(name, options.seed, options.folds)} fold {fold}",
        group=group,
        start=start,
    )
    group.wait()  # all have looked before the first writes
    if group.first:
        write_json(folder / "config.json", record)
    model.to(task.device)
    fit(model, task, options.recipe)
    if group.first:
        # Those that predict, whichever they are: what else is asked of the model later is asked of them.
        save_weights(task.checkpoints / "weights.safetensors", model)
        minutes = restart["cpu_minutes"] + cpu_minutes(folder)
        write_predictions(model, task, options.recipe.batch_frames, minutes)
    group.wait()
    return folder


def write_predictions(model: CTCNetwork, task: TrainingTask, frames: int, minutes: float) -> None:
    """Predict all splits into the store, in batches of `frames` frames, and tell the greedy distances.

    `minutes` are the CPU-minutes the member took to train.
    """
    dataset, summary = task.dataset, {}
    everything = {
        "oof": (dataset.train, task.held_out),
        "dev": (dataset.dev, np.arange(len(dataset.dev))),
        "test": (dataset.test, np.arange(len(dataset.test))),
    }
    for name, (split, indices) in everything.items():
        log_probs = predict(model, split, indices, frames=frames, alphabet=dataset.alphabet.hash, device=task.device)
        if split.tokens is not None and len(indices):
            summary[name] = round(float(greedy_distances(log_probs, split, indices).mean()), 4)
        # With the last of the splits the member is finished, so everything else is written before it.
        write_json(task.folder / "summary.json", {"greedy_distance": summary, "cpu_minutes": round(minutes, 2)})
        write_log_probs(task.folder / f"{name}.safetensors", log_probs)
    found = ", ".join(f"{name} {value:.3f}" for name, value in summary.items())
    print(f"{task.title}: greedy distance {found}; {minutes:.1f} CPU-minutes; wrote {task.folder}")








def _fitted(model: CTCNetwork, dataset: Dataset, chosen: np.ndarray, skip_bad: bool) -> np.ndarray:
    """The utterances to fit, less those too short for their labels."""
    split = dataset.train
    outputs = model.output_lengths(torch.from_numpy(split.lengths)).numpy()
    bad = np.intersect1d(too_short(split, outputs), chosen)
    if len(bad):
        listed = ", ".join(split.ids[i] for i in bad[:5]) + (", …" if len(bad) > 5 else "")
        if not skip_bad:
            raise InputError(
                f"{len(bad)} training utterances have fewer output frames at stride {model.stride} than their labels "
                f"need: {listed}; a model of smaller stride takes them, or leave them out with --skip-bad"
            )
        print(f"left out, too short for their labels at stride {model.stride}: {listed}")
    fitted = np.setdiff1d(chosen, bad)
    if not len(fitted):
        raise InputError("nothing is left to fit: every training utterance is too short for its labels at this stride")
    return fitted


def pick_device(name: str, group: ProcessGroup) -> torch.device:
    """The device of `--device`, each process of a group its own. Raises InputError for one this machine has not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not on this machine ({str(error).splitlines()[0]}); try cpu") from None
    return device
