"""Preparation of a run: its recipe, resolved for the device, and the utterances to fit and to hold out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch

from folds.data.dataset import Dataset, joined
from folds.data.renormalized import dataset_as_read
from folds.data.speaker_folds import assign_folds, speaker_subset
from folds.training.device import resolve_precision
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe, TrainOptions
from folds.training.task import long_enough
from folds.training.teacher import Teacher
from models import CTCModel, GroupFacts, GroupLayer
from models.features import FeatureTransform
from registry import InputError


def resolve_options(
    options: TrainOptions, device: torch.device, group: ProcessGroup, model: CTCModel, halved: bool
) -> tuple[TrainOptions, TrainingRecipe]:
    """The options with batch size and learning rate for this device, and the recipe, which also has the precision."""
    if device.type == "cuda":
        # TF32 for the float32 matrix products of recurrent and convolutional layers, and of layers outside autocast.
        torch.set_float32_matmul_precision("high")
    sized = options.recipe.sized_for(device.type, group.size)
    recipe = TrainingRecipe.of(sized, resolve_precision(sized.precision, device, model))
    if halved:
        sized, recipe = sized.halved(), recipe.halved()
    return dataclasses.replace(options, recipe=sized), recipe


def training_data(options: TrainOptions, dataset: Dataset, teacher: Teacher | None) -> Dataset:
    """The data as the network reads them, with all training utterances in the train split.

    This may include dev, and test with the teacher's labels.
    """
    dataset = dataset_as_read(dataset, FeatureTransform(options.recipe.normalise))
    more = [dataset.dev] if options.with_dev else []
    if teacher is not None and teacher.on_test:
        more.append(teacher.label_test(dataset.test))
    if not more:
        return dataset
    return dataclasses.replace(dataset, train=joined(dataset.train, functools.reduce(joined, more)))


def split_fold(options: TrainOptions, dataset: Dataset, fold: int, model: CTCModel) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the train split: (the held-out fold, the utterances to fit)."""
    fold_of = assign_folds(dataset.train, options.folds, options.fold_by)
    others = speaker_subset(dataset.train, np.flatnonzero(fold_of != fold), options.recipe.speakers)
    others = others[: options.recipe.limit]
    return np.flatnonzero(fold_of == fold), long_enough(model, dataset, others, options.skip_bad)


def check_group_layer(options: TrainOptions, dataset: Dataset) -> None:
    """Raise InputError unless the data have the groups that --group-layer names."""
    chosen, grouped_by = options.recipe.group_layer, dataset.competition.grouped_by
    if chosen is None:
        return
    if chosen != grouped_by:
        raise InputError(f"--group-layer {chosen}: the groups of these data are {grouped_by}s: pass {grouped_by}")
    if not dataset.train.names_groups:
        raise InputError(f"--group-layer {chosen}: {dataset.format} data name no {grouped_by}s: leave it out")


def add_group_layer(
    model: CTCModel, options: TrainOptions, dataset: Dataset, fitted: np.ndarray
) -> dict[str, Any] | None:
    """If the recipe asks for it, add a layer for each group of the utterances to fit; return config.json's record."""
    if options.recipe.group_layer is None:
        return None
    groups = tuple(sorted({dataset.train.groups[index] for index in fitted.tolist()}))
    facts = GroupFacts(options.recipe.group_layer, groups, options.recipe.group_softsign)
    model.group_layer = GroupLayer(dataset.features, facts)
    return {"by": facts.by, "groups": list(facts.groups), "softsign": facts.softsign}
