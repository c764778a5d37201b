"""TODO"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from folds.data.dataset import Dataset
from folds.store.checkpoint import files as checkpoints
from folds.store.run_folder import SPLITS
from folds.training.options import TrainOptions
from models import CTCNetwork
from registry import InputError, describe

# What may differ between a run and its resumption.
FREE = ("data", "model", "fold", "runs", "restart_from", "resume", "device", "threads", "allow_pickle")


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
