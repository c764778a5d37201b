"""Refits: members' models trained again on all training utterances; they predict dev and test with the fold models.

A refit (`folds.train --folds 1`, the member `<name>.all`) holds nothing out, so its weight cannot be fitted out of
fold: it gets the weight and the settings of the fold models of the same name. That is sound only if it was trained with
the same recipe, which is checked, or if it is one of them, trained further on everything (`--restart-from`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ensemble.members.member import Member
from folds.store.fold_model import FoldModel
from folds.training.options import RecipeOptions
from registry import InputError

# Options that may differ: details of the computation, and options that only a run with held-out utterances can have.
FREE = frozenset({"clock", "keep", "precision", "select"})


def with_refits(members: Sequence[Member], fold_models: Sequence[FoldModel]) -> tuple[list[Member], list[str]]:
    """The members, each with its refit if `fold_models` has one, and a note for each refit that is not used.

    A refit is left out if it neither has the model, data and recipe of the fold models nor continues one of them.
    Raises InputError for a member with two refits.
    """
    by_name = {member.name: member for member in members}
    notes = []
    for refit in fold_models:
        if not refit.is_refit:
            continue
        member = by_name.get(refit.folder.refit_of)
        if member is None:
            notes.append(
                f"left out: {refit.name} was trained on all utterances, and {refit.folder.refit_of}, whose out-of-fold "
                "predictions determine its weight, is not among the members"
            )
            continue
        difference = recipe_difference(refit, member.fold_models)
        if difference is None and member.refit is not None:
            raise InputError(
                f"member {member.name}: has two refits, {member.refit.path} and {refit.path}: leave one runs folder "
                "out of --runs"
            )
        if difference is None:
            by_name[member.name] = dataclasses.replace(member, refit=refit)
        else:
            notes.append(f"left out: {refit.name} was not trained like the fold models of {member.name}: {difference}")
    return [by_name[member.name] for member in members], notes


def recipe_difference(refit: FoldModel, fold_models: Sequence[FoldModel]) -> str | None:
    """The first difference between a refit's recipe and its fold models', such as "epochs 40, not 30".

    None if they are the same. A refit that was started, directly or through other runs, from the weights of one of the
    fold models may differ in everything except teacher and adaptation. Options that did not exist in a run's version
    count as their defaults.
    """
    ours, (theirs, *others) = _recipe(refit), [_recipe(fold_model) for fold_model in fold_models]
    default = dict(_flat(dataclasses.asdict(RecipeOptions())))
    restart = refit.config.restart
    weights = {fold_model.trained_weights_hash for fold_model in fold_models}
    continues = restart is not None and not weights.isdisjoint([restart.weights, *restart.earlier])
    for key in ["teacher", "adaptation"] if continues else sorted({*ours, *theirs}):
        mine, other = (recipe.get(key, default.get(key)) for recipe in (ours, theirs))
        if mine != other:
            return f"{key} {mine}, not {other}"
    for other in others:
        # Each run is adapted separately, perhaps to the hypotheses of another blend.
        if ours["adaptation"] != other["adaptation"]:
            return f"adaptation {ours['adaptation']}, not {other['adaptation']}"
    return None


def _recipe(fold_model: FoldModel) -> dict[str, Any]:
    """The settings that must be the same, by name."""
    config = fold_model.config
    options = fold_model.recorded.get("options", {})  # the options of the version that made it
    recipe = {key: value for key, value in _flat(options.get("recipe", {})) if key not in FREE}
    if config.hardware.halved:  # to save memory: two batches per step instead of a larger one
        recipe |= {"batch_frames": 2 * recipe["batch_frames"], "accumulate": recipe["accumulate"] // 2}
    if recipe.get("minutes") is not None:
        recipe.pop("epochs", None)
    facts = {"model": config.model, "data": config.data.hash}
    sources = {key: "given" if options.get(key) else "not given" for key in ("restart_from", "guide", "teacher")}
    adaptation = config.adaptation
    adapted = {"adaptation": None if adaptation is None else [adaptation.nbest, adaptation.passes, adaptation.lr]}
    return facts | dict(_flat(config.model_config)) | recipe | sources | adapted


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items, with nested mappings flattened; tuples become lists, as in JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, list(value) if isinstance(value, tuple) else value
