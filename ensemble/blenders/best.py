"""Whatever out-of-fold predictions say: every other blender is fitted, the one with the lowest nested distance wins.

The nested distance decides, not the fitted one, or the blender with the most settings would win by fitting noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ensemble.blenders.base import BLENDERS, Recipe, distances, nested_distances
from ensemble.hypotheses.blend_inputs import Evidence


@dataclass(frozen=True)
class Fitted:
    """A recipe with its edit distances (N,) out of fold: fitted on them all, and nested by part."""

    recipe: Recipe
    oof: np.ndarray
    nested: np.ndarray


def fit_all(evidence: Evidence, methods: Sequence[str], seed: int = 0) -> dict[str, Fitted]:
    """Fit some registered blenders."""
    found = {}
    for method in tqdm(methods, desc="fitting", unit="blender", leave=False):
        blender = BLENDERS.get(method)()
        recipe = blender.fit(evidence, seed)
        found[method] = Fitted(
            recipe, distances(blender, evidence, recipe), nested_distances(blender, evidence, seed)
        )
    return found


def winner(fitted: dict[str, Fitted]) -> str:
    """The method with the lowest nested distance; the first by name on a tie."""
    return min(sorted(fitted), key=lambda method: float(fitted[method].nested.mean()))


def as_best(fitted: dict[str, Fitted]) -> Recipe:
    """The winner's recipe, as the recipe of `best`."""
    method = winner(fitted)
    nested = {name: float(each.nested.mean()) for name, each in fitted.items()}
    inner = fitted[method].recipe
    return Recipe("best", inner.weights, {"chosen": method, "nested": nested, "settings": inner.settings})


@BLENDERS.register("best")
class Best:
    """The registered blender that has the lowest nested out-of-fold distance."""

    def fit(self, evidence: Evidence, seed: int = 0) -> Recipe:
        """Fits every other registered blender."""
        return as_best(fit_all(evidence, [name for name in BLENDERS.names() if name != "best"], seed))

    def predict(self, evidence: Evidence, recipe: Recipe) -> list[list[int]]:
        """What the chosen blender predicts."""
        method = recipe.settings["chosen"]
        return BLENDERS.get(method)().predict(evidence, Recipe(method, recipe.weights, recipe.settings["settings"]))
