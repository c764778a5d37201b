"""Whatever out-of-fold predictions say: every other blender is fitted, the one with the lowest nested distance wins.

The nested distance decides, not the fitted one, or the blender with the most settings would win by fitting noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ensemble.blenders.base import BLENDERS, BlendRecipe, distances, nested_distances
from ensemble.hypotheses.blend_inputs import BlendInputs


@dataclass(frozen=True)
class FittedBlender:
    """A recipe with its edit distances (N,) out of fold: fitted on them all, and nested by part."""

    recipe: BlendRecipe
    oof: np.ndarray
    nested: np.ndarray


def fit_all(inputs: BlendInputs, methods: Sequence[str], seed: int = 0) -> dict[str, FittedBlender]:
    """Fit some registered blenders."""
    found = {}
    for method in tqdm(methods, desc="fitting", unit="blender", leave=False):
        blender = BLENDERS.get(method)()
        recipe = blender.fit(inputs, seed)
        found[method] = FittedBlender(
            recipe, distances(blender, inputs, recipe), nested_distances(blender, inputs, seed)
        )
    return found


def winner(fitted: dict[str, FittedBlender]) -> str:
    """The method with the lowest nested distance; the first by name on a tie."""
    return min(sorted(fitted), key=lambda method: float(fitted[method].nested.mean()))


def as_best(fitted: dict[str, FittedBlender]) -> BlendRecipe:
    """The winner's recipe, as the recipe of `best`."""
    method = winner(fitted)
    nested = {name: float(each.nested.mean()) for name, each in fitted.items()}
    inner = fitted[method].recipe
    return BlendRecipe("best", inner.weights, {"chosen": method, "nested": nested, "settings": inner.settings})


@BLENDERS.register("best")
class Best:
    """The registered blender that has the lowest nested out-of-fold distance."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Fits every other registered blender."""
        return as_best(fit_all(inputs, [name for name in BLENDERS.names() if name != "best"], seed))

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """What the chosen blender predicts."""
        method = recipe.settings["chosen"]
        return BLENDERS.get(method)().predict(inputs, BlendRecipe(method, recipe.weights, recipe.settings["settings"]))
