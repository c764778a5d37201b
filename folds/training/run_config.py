"""The contents of a run's config.json; see `folds.training.resumption` for its comparison with an earlier one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import torch

from folds.competition.alphabets import Alphabet
from folds.data.dataset import Dataset
from folds.data.speaker_folds import ASSIGNMENTS
from folds.frontends.base import front_end_of
from folds.store.fold_model import FoldModel
from folds.training.device import device_name, uses_tf32
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe, TrainOptions
from folds.training.threads import CPUThreads
from models import CTCModel
from registry import describe
from registry.config import Config


def run_config(
    options: TrainOptions,
    dataset: Dataset,
    name: str,
    fold: int,
    config: Config,
    model: CTCModel,
    hardware: dict[str, Any],
) -> dict[str, Any]:
    """The resolved configuration, and what a blend needs to know about the fold model, as JSON.

    `hardware` is the device and its settings; see `describe_hardware`.
    """
    return {
        "model": name,
        "name": options.name or name,
        "fold": fold,
        "folds": options.folds,
        "fold_assignment": ASSIGNMENTS[options.fold_by],
        "seed": options.seed,
        "parameters": count_parameters(model),
        "tags": list(describe(name).tags),
        "stride": model.stride,
        "speller": model.has_attention_scores,
        "select": options.recipe.select,
        "with_dev": options.with_dev,
        "model_config": as_json(config),
        "group_layer": None,
        "restart": None,
        "guide": None,
        "teacher": None,
        "options": as_json(options),
        "data": data_facts(dataset),
        "front_end": dataset.competition.front_end or front_end_of(dataset.hash, dataset.root),
        "torch": torch.__version__,
        "hardware": hardware,
    }


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What config.json records under "data"."""
    return {
        "format": dataset.format,
        "hash": dataset.hash,
        "features": dataset.features_hash,
        "alphabet": dataset.alphabet.hash,
    }


def describe_hardware(
    recipe: TrainingRecipe, device: torch.device, group: ProcessGroup, threads: CPUThreads
) -> dict[str, Any]:
    """What config.json records under "hardware"; timing.jsonl has the number of threads at the end of each epoch."""
    return {
        "precision": recipe.precision,
        "tf32": recipe.precision == "fp32" and uses_tf32(device),
        "device": device.type,
        "device_name": device_name(device),
        "world_size": group.size,
        "threads": torch.get_num_threads(),
        "max_threads": threads.most,
        "frames_per_batch": recipe.frames_of_all(device.type, group.size),
    }


def count_parameters(model: CTCModel) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_description(fold_model: FoldModel, alphabet: Alphabet) -> dict[str, Any]:
    """What `models.load` needs besides the weights."""
    transform = fold_model.transform
    return {
        "model": fold_model.model,
        "config": fold_model.config.model_config,
        "phonemes": list(alphabet.phonemes),
        "characters": list(alphabet.characters),
        "normalization": transform.normalization,
        "smooth": transform.smooth,
        "delay": transform.delay,
        "group_layer": fold_model.config.group_layer,
    }


def as_json(options: Config | TrainOptions) -> dict[str, Any]:
    """The options as JSON would return them: tuples become lists, paths become strings."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))
