"""What a run's config.json holds, and its comparison with that of the same run when it was started."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

from folds.competition.alphabets import Alphabet
from folds.data.dataset import Dataset
from folds.data.speaker_folds import FOLD_ASSIGNMENT
from folds.store.fold_model import FoldModel
from folds.training.options import TrainOptions
from models import CTCModel
from registry import InputError, describe
from registry.config import Config

# Options that may change when a run is resumed.
FREE = ("data", "model", "fold", "runs", "restart_from", "resume", "device", "threads", "allow_pickle")


def run_config(
    options: TrainOptions, dataset: Dataset, name: str, fold: int, config: Config, model: CTCModel
) -> dict[str, Any]:
    """The resolved configuration, and what a blend needs to know about the fold model; all of it JSON."""
    return {
        "model": name,
        "fold": fold,
        "folds": options.folds,
        "fold_assignment": FOLD_ASSIGNMENT,
        "seed": options.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tags": list(describe(name).tags),
        "stride": model.stride,
        "speller": model.has_attention_scores,
        "select": options.recipe.select,
        "model_config": _as_json(config),
        "restart": None,
        "options": _as_json(options),
        "data": {"format": dataset.format, "hash": dataset.hash, "alphabet": dataset.alphabet.hash},
        "torch": torch.__version__,
    }


def weights_description(config: dict[str, Any], alphabet: Alphabet) -> dict[str, Any]:
    """What `models.load` needs besides the weights, of the run whose config.json is `config`."""
    return {
        "model": config["model"],
        "config": config["model_config"],
        "phonemes": list(alphabet.phonemes),
        "characters": list(alphabet.characters),
        "normalization": "utterance",
    }


def check_same_run(started: FoldModel, config: dict[str, Any]) -> None:
    """Raise InputError unless the run that was started has the settings and the folds of `config`, its new config.json.

    Options that the run's version did not have yet count as their defaults.
    """
    before, now = _settings(started.config), _settings(config)
    default = _settings(config | {"options": _as_json(TrainOptions())})
    changed = sorted(key for key in {*before, *now} if before.get(key, default.get(key)) != now.get(key))
    if changed:
        key = changed[0]
        raise InputError(
            f"{started.path}: started with other settings ({key} was {before.get(key, default.get(key))}, now "
            f"{now.get(key)}): use the same settings, another --seed or --runs, or delete the folder"
        )
    if started.folds > 1 and started.fold_assignment != FOLD_ASSIGNMENT:
        raise InputError(
            f"{started.path}: started under fold assignment {started.fold_assignment}, now {FOLD_ASSIGNMENT}, which "
            "puts other speakers into the folds: use another --runs, or delete the folder"
        )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    chosen = {key: value for key, value in config["options"].items() if key not in FREE}
    # The source of a warm restart may be moved; whether there is one must not change.
    restarted = {"restart_from": "given" if config["options"].get("restart_from") else "not given"}
    return {"data": config["data"], "model": config["model_config"], **chosen.pop("recipe"), **chosen, **restarted}


def _as_json(options: Config | TrainOptions) -> dict[str, Any]:
    """As JSON would return it: tuples become lists, paths strings."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))
