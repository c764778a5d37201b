"""What a blender is: fitted on out-of-fold inputs, it makes one hypothesis per utterance from the inputs of any split.

Blenders register themselves in `BLENDERS`; a new one is one file in this folder. The nested fit, which estimates a
blender's distance on utterances that it was not fitted on, is here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ensemble.fitting.member_weights import Selection, greedy_selection
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.members.member import Member
from folds.competition.metric import edit_distances
from registry import InputError, Registry


@dataclass(frozen=True)
class BlendRecipe:
    """How to blend: the method, the weight of each member used (they sum to 1), and the method's own settings."""

    method: str
    weights: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON can hold it; `BlendRecipe(**…)` reads it."""
        return asdict(self)

    def array(self, names: tuple[str, ...]) -> np.ndarray:
        """Weights (members,) in the order of `names`. Raises InputError for a member that is not in `names`."""
        missing = sorted(set(self.weights) - set(names))
        if missing:
            raise InputError(f"the recipe needs member {missing[0]}, which is missing; there are: {', '.join(names)}")
        return np.array([self.weights.get(name, 0.0) for name in names])


class Blender(Protocol):
    """The contract of every registered blender; `tests/ensemble/test_ensemble_blenders.py` runs it over them all."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """The best recipe for these inputs, whose references are known. The same seed gives the same recipe."""
        ...

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """One class sequence per utterance, in their order, without use of the references."""
        ...


BLENDERS: Registry[type[Blender]] = Registry("blenders", package="ensemble.blenders")


def weights_by_name(names: tuple[str, ...], weights: np.ndarray) -> dict[str, float]:
    """Weights as a recipe holds them: members without weight are left out."""
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


def used(recipe: BlendRecipe, names: tuple[str, ...]) -> list[int]:
    """Numbers of the members to which a recipe gives weight."""
    return [number for number, weight in enumerate(recipe.array(names)) if weight > 0]


def select_members(
    inputs: BlendInputs,
    loss: Callable[[np.ndarray], float],
    seed: int,
    rounds: int = 12,
    patience: int = 3,
    start: np.ndarray | None = None,
) -> Selection:
    """Greedy selection among the members of the inputs, within their budget; `loss` is a function of the counts."""
    return greedy_selection(
        loss,
        len(inputs.names),
        rounds=rounds,
        seed=seed,
        costs=inputs.split.costs,
        budget=inputs.split.budget,
        patience=patience,
        start=start,
    )


def predict_with(inputs: BlendInputs, recipe: BlendRecipe, kept: Sequence[Member]) -> list[list[int]]:
    """Predictions by a recipe from the fold models of the members `kept` alone, with weights in their proportions.

    A budget may not allow every fold model of every member with weight; see `within_budget`.
    """
    folds = {member.name: member.folds for member in kept}
    indices = [
        index
        for index, predictions in enumerate(inputs.split.predictions)
        if predictions.fold in (None, *folds.get(inputs.names[predictions.member], ()))
    ]
    total = sum(recipe.weights[name] for name in folds)
    weights = {name: recipe.weights[name] / total for name in folds}
    return BLENDERS.get(recipe.method)().predict(inputs.only(indices), replace(recipe, weights=weights))


def distances(blender: Blender, inputs: BlendInputs, recipe: BlendRecipe) -> np.ndarray:
    """Edit distance (N,) of the blender's predictions to the references."""
    return edit_distances(blender.predict(inputs, recipe), inputs.references)


def nested_distances(blender: Blender, inputs: BlendInputs, seed: int = 0) -> np.ndarray:
    """Edit distance (N,) where the predictions of each part are made by a recipe fitted on the other parts."""
    from sklearn.model_selection import LeaveOneGroupOut  # takes a second to import, and only a fit needs it

    nested = np.zeros(len(inputs), np.int64)
    for fitted, held_out in LeaveOneGroupOut().split(nested, groups=inputs.parts):
        recipe = blender.fit(inputs.take(fitted), seed)
        nested[held_out] = distances(blender, inputs.take(held_out), recipe)
    return nested
