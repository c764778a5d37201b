"""One (model, fold, seed), from the data to its folder in the store: fit, predict, summarise.

It can be killed at any moment and run again; a finished run is left alone.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from models import CTCNetwork
from registry import InputError, create_model, describe, model_config

from .cache import Dataset, too_short
from .checkpoint import files as checkpoints
from .checkpoint import load_weights, save_weights
from .fit import Task, fit
from .journal import cpu_minutes
from .options import TrainOptions
from .parallel import Group
from .partition import speaker_folds
from .predict import greedy_distances, predict
from .restart import open_source
from .store import SPLITS, read_json, run_dir, run_name, write_json, write_log_probs

# What may differ between a run and its resumption.
FREE = ("data", "model", "fold", "runs", "restart_from", "resume", "device", "threads", "allow_pickle")


def train_member(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, settings: dict[str, Any], group: Group
) -> Path:
    """Train model `name` on all folds but `fold` and write its folder; returns that folder.

    Raises InputError for a run begun before and not resumed, or resumed with other settings; utterances too short for
    their labels; predictions that are no numbers.
    """
    folder = run_dir(options.runs, name, fold, options.seed, options.folds)
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
    task = Task(
        dataset=dataset,
        fitted=fitted,
        held_out=held_out,
        seed=options.seed,
        device=pick_device(options.device, group),
        folder=folder,
        title=f"{run_name(name, options.seed, options.folds)} fold {fold}",
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


def write_predictions(model: CTCNetwork, task: Task, frames: int, minutes: float) -> None:
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


def _record(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, config: Any, model: CTCNetwork
) -> dict[str, Any]:
    """What config.json holds: the resolved configuration, and what a blend must know of the member."""
    return {
        "model": name,
        "fold": fold,
        "folds": options.folds,
        "seed": options.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tags": list(describe(name).tags),
        "stride": model.stride,
        "speller": hasattr(model, "spelled"),
        "select": options.recipe.select,
        "model_config": json.loads(json.dumps(dataclasses.asdict(config))),
        "restart": None,
        "options": _plain(options),
        "data": {"format": dataset.format, "hash": dataset.hash, "alphabet": dataset.alphabet.hash},
        "torch": torch.__version__,
    }


def _check_same(folder: Path, before: dict[str, Any], record: dict[str, Any], options: TrainOptions) -> None:
    """Raises InputError where the run in `folder`, begun before, is not this one, or not to be gone on with."""

    def settings(of: dict[str, Any]) -> dict[str, Any]:
        chosen = {key: value for key, value in of["options"].items() if key not in FREE}
        # Where the source of a restart lies is free; that there is one is not.
        restarted = {"restart_from": "given" if of["options"].get("restart_from") else "not given"}
        return {"data": of["data"], "model": of["model_config"], **chosen.pop("recipe"), **chosen, **restarted}

    old, new = settings(before), settings(record)
    # An option that is newer than the run: the run was begun as its default has it.
    default = settings(record | {"options": _plain(TrainOptions())})
    changed = sorted(key for key in {*old, *new} if old.get(key, default.get(key)) != new.get(key))
    if changed:
        key = changed[0]
        raise InputError(
            f"{folder}: begun with other settings ({key} was {old.get(key, default.get(key))}, now {new.get(key)}): "
            "give the same again, another --seed or --runs, or delete the folder"
        )
    finished = all((folder / f"{split}.safetensors").exists() for split in SPLITS)
    if not options.resume and not finished and checkpoints(folder / "checkpoint"):
        raise InputError(f"{folder}: begun before and not finished: add --resume to go on, or delete the folder")


def _plain(options: TrainOptions) -> dict[str, Any]:
    """As JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


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


def pick_device(name: str, group: Group) -> torch.device:
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
