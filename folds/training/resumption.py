"""Check whether a run may be resumed, by comparing its new config.json with the one it was started with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from folds.data.dataset import Dataset
from folds.data.speaker_folds import ASSIGNMENTS, FoldBy
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.remote import store_url
from folds.store.run_folder import RunFolder, run_folders
from folds.training.options import RecipeOptions, TrainOptions
from folds.training.presets import device_type
from folds.training.run_config import as_json, data_facts
from registry import InputError, model_config
from registry.config import Config
from registry.errors import MachineFault
from registry.json_files import flattened

# Options that may change when a run is resumed.
FREE = (
    *("data", "model", "config", "name", "preset", "fold", "runs", "restart_from", "guide", "teacher", "resume"),
    *("device", "threads", "save_every", "log", "allow_pickle"),
)


class StartedOtherwise(InputError):
    """A run was started on other data or with other settings, so it cannot be continued."""


class FinishedOtherwise(StartedOtherwise):
    """A run is finished and has other settings, so there is nothing to continue; it is left as it is."""


def started_run(folder: RunFolder) -> FoldModel | None:
    """The run that was started in a folder. None if there is none, or if it stopped before it had any results.

    Without results, its settings may still change. Raises InputError for results without a config.json.
    """
    if not folder.has_results:
        return None
    if not folder.begun:
        raise InputError(
            f"{folder.path}: has checkpoints or predictions and no {folder.config.name}, so their settings are "
            "unknown: restore the file, or delete the folder"
        )
    return read_fold_model(folder)


def check_same_run(started: FoldModel, config: dict[str, Any]) -> None:
    """Raise StartedOtherwise unless the run was started with the settings and the folds of `config`.

    `config` is its new config.json. Options that did not exist in the run's version count as their defaults.
    """
    started.check_trained()
    path = store_url(started.path) or started.path
    if started.model != config["model"]:
        raise StartedOtherwise(
            f"{path}: is a run of {started.model}, not of {config['model']}: train it under another --name"
        )
    before, now = _settings(started.recorded), _settings(config)
    sizes = {name: config["model_config"][name] for name in ("features", "classes")}
    default = _settings(
        config
        | {"options": as_json(TrainOptions(recipe=RecipeOptions().sized_for("cpu", 1)))}
        | {"model_config": as_json(model_config(config["model"], **sizes))}
    )
    if _hardware(started.recorded, "precision") == _hardware(config, "precision"):
        before["precision"] = now["precision"]  # auto equals its resolved value on this device
    changed = sorted(key for key in {*before, *now} if before.get(key, default.get(key)) != now.get(key))
    if any(key.startswith("data.") for key in changed):
        raise StartedOtherwise(f"{path}: was started on different data: pass those with --data, or use another --name")
    if changed:
        difference = "; ".join(f"{key} was {before.get(key, default.get(key))}, now {now.get(key)}" for key in changed)
        if started.folder.finished:
            raise FinishedOtherwise(
                f"{path}: finished with different settings ({difference}): leave it out, or give the new run its "
                f"own --name (with --restart-from {path} to train this one further)"
            )
        raise StartedOtherwise(
            f"{path}: started with different settings ({difference}): use the same settings, another --name, "
            "--seed or --runs, or delete the folder"
        )
    if started.folds > 1 and started.fold_assignment != config["fold_assignment"]:
        raise StartedOtherwise(
            f"{path}: started with fold assignment {started.fold_assignment}, now "
            f"{config['fold_assignment']}, which puts different speakers into the folds: use another --runs, or delete "
            "the folder"
        )


def check_same_settings(
    started: FoldModel, options: TrainOptions, dataset: Dataset, name: str, config: Config
) -> None:
    """Raise StartedOtherwise, like `check_same_run`, for options that could not resume the run on any machine.

    `name` is the model's. Values that depend on the device are taken from the run's record, and so are the contents of
    the guide and of the teacher.
    """
    hardware = started.recorded.get("hardware", {})
    device = hardware.get("device") or device_type(options.device)
    recipe = options.recipe.sized_for(device, hardware.get("world_size") or 1)
    if options.recipe.batch_frames is None and started.config.hardware.halved:
        recipe = recipe.halved()
    precision = hardware.get("precision") if recipe.precision == "auto" else recipe.precision
    record = {
        "model": name,
        "fold_assignment": ASSIGNMENTS[options.fold_by],
        "model_config": as_json(config),
        "guide": None if options.guide is None else started.recorded.get("guide"),
        "teacher": None if options.teacher is None else started.recorded.get("teacher"),
        "options": as_json(dataclasses.replace(options, recipe=recipe)),
        "data": data_facts(dataset),
        "hardware": {"precision": precision},
    }
    check_same_run(started, record)


def check_folds(folder: RunFolder, folds: int, fold_by: FoldBy, elsewhere: Sequence[FoldModel] = ()) -> None:
    """Raise InputError if another run of the same member in the same store has another number or kind of folds.

    The runs would hold out different utterances, so they could not be blended. `elsewhere` are runs of the same store
    that are not in its folder.
    """
    runs = folder.path.parent.parent
    here = (other for other in (run_folders(runs) if runs.is_dir() else ()) if other.name != folder.name)
    others = [read_fold_model(other) for other in here if other.member == folder.member and other.has_results]
    for started in (*others, *(run for run in elsewhere if run.folder.member == folder.member)):
        path = store_url(started.path) or started.path
        if started.folds != folds:
            raise InputError(
                f"{folds} folds: {path} was started with {started.folds}, and all runs of a member must have "
                f"the same number: use {started.folds} here as well, or another --name or --runs"
            )
        if folds > 1 and started.fold_assignment != ASSIGNMENTS[fold_by]:
            raise InputError(
                f"--fold-by {fold_by}: the folds of {path} were assigned differently, and all runs of a "
                "member must share one assignment: use the same --fold-by, or another --name or --runs"
            )


def check_same_processes(started: FoldModel, config: dict[str, Any]) -> None:
    """Raise InputError if another number of processes would change the batch size of an unfinished run.

    On CUDA the default learning rate depends on it as well, so this is checked before the settings.
    """
    before, now = (
        (_hardware(facts, "world_size"), _hardware(facts, "frames_per_batch")) for facts in (started.recorded, config)
    )
    if None not in before and before[0] != now[0] and before[1] != now[1]:
        raise InputError(
            f"{started.path}: started in {before[0]} processes with {before[1]} frames per batch over all of them, now "
            f"{now[0]} with {now[1]}: use torchrun --nproc-per-node {before[0]}, or delete the folder"
        )


def check_same_hardware(started: FoldModel, config: dict[str, Any]) -> None:
    """Raise InputError unless an unfinished run would continue with the same precision and batch size.

    It is a MachineFault if this machine uses another precision. Other processors and numbers of threads are accepted,
    and so are runs that do not record what they used.
    """
    before, now = _hardware(started.recorded, "precision"), _hardware(config, "precision")
    if before is not None and before != now:
        unsupported = before == "fp16" and _hardware(config, "device") == "cpu"
        remedy = "" if unsupported else f"pass --precision {before}, "
        raise MachineFault(
            f"{started.path}: started in {before}, and --precision {config['options']['recipe']['precision']} is {now} "
            f"here: {remedy}continue it on the same kind of device, or delete the folder"
        )
    tf32 = _hardware(started.recorded, "tf32")
    if tf32 is not None and tf32 != _hardware(config, "tf32"):
        before, now = ("TF32", "full float32") if tf32 else ("full float32", "TF32")
        raise MachineFault(
            f"{started.path}: started with matrix products in {before}, which are in {now} here: continue it on the "
            "same kind of device, or delete the folder"
        )
    before, now = _hardware(started.recorded, "frames_per_batch"), _hardware(config, "frames_per_batch")
    if before is not None and before != now:
        raise InputError(
            f"{started.path}: started with {before} frames per batch over all processes, now {now}: use as many "
            "processes, or delete the folder"
        )


def _hardware(config: dict[str, Any], key: str) -> Any:
    return config.get("hardware", {}).get(key)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that must not change when a run is resumed; nested options are flattened to `augment.noise`."""
    chosen = {key: value for key, value in config["options"].items() if key not in FREE}
    # The source of a warm restart may be moved; whether there is one must not change.
    restarted = {"restart_from": "given" if config["options"].get("restart_from") else "not given"}
    # A guide and a teacher may be moved as well, but they must be the same.
    guide = config.get("guide")
    guided = {"guide": f"with weights {guide['weights']}" if guide else "not given"}
    teacher = config.get("teacher")
    taught = {"teacher": f"with N-best hypotheses {teacher['nbest']}" if teacher else "not given"}
    recipe = chosen.pop("recipe")
    sources = {**restarted, **guided, **taught}
    return flattened({"data": config["data"], "model": config["model_config"], **recipe, **chosen, **sources})
