"""Fit all other blenders and choose the one with the lowest nested out-of-fold distance.

The fitted distance cannot be used: the blender with the most settings would win by fitting noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.blenders.base import (
    BLENDERS,
    BlendRecipe,
    checked_recipe,
    distances,
    nested_distances,
    predictions_of,
)
from ensemble.hypotheses.blend_inputs import BlendInputs
from folds.competition.bootstrap import paired_bootstrap
from registry import Registry
from registry.console import track


@dataclass(frozen=True)
class FittedBlender:
    """A recipe and its out-of-fold edit distances."""

    recipe: BlendRecipe
    oof: np.ndarray
    """Distances (N,) of the recipe, on the utterances it was fitted on."""
    nested: np.ndarray
    """Distances (N,) by nested cross-validation."""
    groups: tuple[str, ...] | None = None
    """The speaker or day of each utterance; None if unknown."""
    weighs_networks: bool = False
    """Whether the networks of a member are weighed against each other; see `Blender`."""


def fit_blenders(
    inputs: BlendInputs, methods: Sequence[str], seed: int = 0, blenders: Registry[type[Any]] = BLENDERS
) -> dict[str, FittedBlender]:
    """Fit the registered blenders named in `methods`. Raises PlugInError if a plug-in's blender fails."""
    groups, fitted = inputs.split.groups, {}
    if groups is not None and inputs.rows is not None:
        groups = tuple(groups[row] for row in inputs.rows)
    for method in track(methods, "fitting blenders"):
        with blenders.using(method):
            blender = blenders.get(method)()
            recipe = checked_recipe(blender.fit(inputs, seed), method, inputs)
            fitted[method] = FittedBlender(
                recipe,
                distances(blender, inputs, recipe),
                nested_distances(blender, inputs, seed),
                groups=groups,
                weighs_networks=bool(getattr(blender, "weighs_networks", False)),
            )
    return fitted


def methods_of(method: str) -> list[str]:
    """The blenders to fit for a method: itself, or all others for `best`."""
    return [name for name in BLENDERS.names() if name != "best"] if method == "best" else [method]


def lowest_nested(fitted: Mapping[str, FittedBlender]) -> str:
    """The method with the lowest nested distance; ties go to one that weighs networks, then to the first by name."""
    return min(fitted, key=lambda method: (_mean(fitted[method]), not fitted[method].weighs_networks, method))


def winner(fitted: Mapping[str, FittedBlender]) -> str:
    """The method of `lowest_nested`, or a safer one that hardly differs from it.

    If the former does not weigh networks (see `Blender`), the best method that does is chosen, provided that the 95 %
    interval of the difference reaches zero. Out of fold each member has one network per utterance; on dev and test it
    has several, and a poor one can spoil the mean of their posteriors: on the demo, averaging was as good as minimum
    Bayes risk out of fold (4.47 and 4.51 errors), but had 2.73 errors on dev, where the latter had 1.47.
    """
    lowest = lowest_nested(fitted)
    safe = [method for method in sorted(fitted) if fitted[method].weighs_networks]
    if lowest in safe or not safe:
        return lowest
    safest = min(safe, key=lambda method: _mean(fitted[method]))
    return safest if _is_close(fitted[safest], fitted[lowest]) else lowest


def _mean(blender: FittedBlender) -> float:
    """The mean nested distance."""
    return float(blender.nested.mean())


def _is_close(blender: FittedBlender, lowest: FittedBlender) -> bool:
    """Whether the 95 % interval of the mean difference, over resampled groups, reaches zero."""
    return paired_bootstrap(blender.nested, lowest.nested, lowest.groups).low <= 0


def best_recipe(fitted: Mapping[str, FittedBlender]) -> BlendRecipe:
    """The winner's recipe, as a recipe of `best`."""
    method = winner(fitted)
    nested = {name: _mean(blender) for name, blender in fitted.items()}
    chosen = fitted[method].recipe
    return BlendRecipe("best", chosen.weights, {"chosen": method, "nested": nested, "settings": chosen.settings})


@BLENDERS.register("best")
class Best:
    """The registered blender with the lowest nested out-of-fold distance."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Fit every other registered blender and choose one."""
        return best_recipe(fit_blenders(inputs, methods_of("best"), seed))

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The predictions of the chosen blender."""
        method = recipe.settings["chosen"]
        return predictions_of(inputs, BlendRecipe(method, recipe.weights, recipe.settings["settings"]))
