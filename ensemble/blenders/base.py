"""What a blender is: fitted on out-of-fold evidence, it makes one string an utterance on any other evidence.

Blenders register themselves in `BLENDERS`; a new one is one file. Here too is the nested fit, which tells what a
blender's out-of-fold distance is worth when the utterances measured are not those it was fitted on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from folds.competition.metric import edit_distances
from registry import InputError, Registry


@dataclass(frozen=True)
class BlendRecipe:
    """How to blend: the method, the weight of each member used (they sum to 1), and the method's own settings."""

    method: str
    weights: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def array(self, names: tuple[str, ...]) -> np.ndarray:
        """Weights (members,) in the order of `names`. Raises InputError for a member that is not there."""
        missing = sorted(set(self.weights) - set(names))
        if missing:
            raise InputError(f"the recipe needs member {missing[0]}, which is not here; there are: {', '.join(names)}")
        return np.array([self.weights.get(name, 0.0) for name in names])


class Blender(Protocol):
    """The contract every registered blender keeps; `tests/ensemble/test_ensemble_blenders.py` runs over them all."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """The best recipe for this evidence, whose references are known. The same seed gives the same recipe."""
        ...

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """One class sequence an utterance, in their order. References, if there, are not looked at."""
        ...


BLENDERS: Registry[type[Blender]] = Registry("blenders", package="ensemble.blenders")


def named(names: tuple[str, ...], weights: np.ndarray) -> dict[str, float]:
    """Weights as a recipe holds them: members without weight are left out."""
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


def used(recipe: BlendRecipe, names: tuple[str, ...]) -> list[int]:
    """Numbers of the members a recipe gives weight."""
    return [number for number, weight in enumerate(recipe.array(names)) if weight > 0]


def distances(blender: Blender, inputs: BlendInputs, recipe: BlendRecipe) -> np.ndarray:
    """Edit distance (N,) of the blender's strings to the evidence's references."""
    return edit_distances(blender.predict(inputs, recipe), inputs.references)


def nested_distances(blender: Blender, inputs: BlendInputs, seed: int = 0) -> np.ndarray:
    """Edit distance (N,) where each part's strings come from a recipe fitted on the other parts."""
    parts = inputs.parts
    out = np.zeros(len(inputs), np.int64)
    for part in np.unique(parts):
        held = np.flatnonzero(parts == part)
        recipe = blender.fit(inputs.take(np.flatnonzero(parts != part)), seed)
        out[held] = distances(blender, inputs.take(held), recipe)
    return out
