"""The interface of blenders, their registry, and nested cross-validation.

A blender is fitted on out-of-fold inputs, and then predicts one hypothesis per utterance from the inputs of any split.
Blenders register themselves in `BLENDERS`; add one as a file in this folder. Nested cross-validation measures a
blender's distance on utterances that it was not fitted on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from ensemble.fitting.member_weights import Selection, greedy_selection, parameters_used
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.pool import Pool
from ensemble.members.member import Member
from folds.competition.metric import edit_distances
from registry import InputError, Registry


@dataclass(frozen=True)
class BlendRecipe:
    """How to blend."""

    method: str
    """Name of a registered blender."""
    weights: dict[str, float]
    """The weight of each member used; they sum to 1."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The method's other settings."""

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON; read it with `BlendRecipe(**…)`."""
        return asdict(self)

    def array(self, names: tuple[str, ...]) -> np.ndarray:
        """Weights (members,) in the order of `names`. Raises InputError for a member that is not in `names`."""
        missing = sorted(set(self.weights) - set(names))
        if missing:
            raise InputError(f"the recipe needs member {missing[0]}, which is missing; there are: {', '.join(names)}")
        return np.array([self.weights.get(name, 0.0) for name in names])


class Blender(Protocol):
    """The contract of every registered blender; `tests/ensemble/test_ensemble_blenders.py` runs it over them all.

    A class attribute `weighs_networks = True` states that a member's networks are combined by their likelihoods of each
    other's hypotheses, so that a poor network cannot spoil the result of a good one. `best` prefers such a blender if
    the out-of-fold distances hardly differ.
    """

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """The best recipe for these inputs, whose references are known. The same seed gives the same recipe.

        Its method is this blender, and its members have at most `inputs.split.max_params` parameters (see
        `select_members`).
        """
        ...

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """One class sequence per utterance, in order, without using the references."""
        ...


@runtime_checkable
class PosteriorBlender(Blender, Protocol):
    """A blender whose predictions come from a posterior over a pool, on which a student model can be trained."""

    def posteriors(self, inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
        """The pool of the members with weight, and its hypotheses' posteriors (H,), which sum to 1 per utterance."""
        ...


AnyInputs = TypeVar("AnyInputs", bound=BlendInputs)
"""Blend inputs in phonemes or in words."""

BLENDERS: Registry[type[Blender]] = Registry("blenders", package="ensemble.blenders")


def weights_by_name(names: tuple[str, ...], weights: np.ndarray) -> dict[str, float]:
    """Weights as stored in a recipe: members with weight 0 are left out."""
    return {name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0}


def used_members(recipe: BlendRecipe, names: tuple[str, ...]) -> list[int]:
    """Indices of the members with a positive weight in the recipe."""
    return [member for member, weight in enumerate(recipe.array(names)) if weight > 0]


def select_members(
    inputs: BlendInputs,
    loss: Callable[[np.ndarray], float],
    seed: int,
    rounds: int = 12,
    patience: int = 3,
    start: np.ndarray | None = None,
) -> Selection:
    """Select members of the inputs greedily, within their `max_params`; `loss` is a function of the counts."""
    return greedy_selection(
        loss,
        len(inputs.names),
        rounds=rounds,
        seed=seed,
        parameters=inputs.split.parameters,
        max_params=inputs.split.max_params,
        same_networks=inputs.split.same_networks,
        patience=patience,
        start=start,
    )


def view_of(inputs: AnyInputs, kept: Sequence[Member]) -> AnyInputs:
    """A view of only the predictions of the kept members' networks; predictions of whole members stay."""
    paths = {network.path for member in kept for network in member.networks}
    return inputs.restricted_to(
        [
            index
            for index, predictions in enumerate(inputs.split.predictions)
            if predictions.network is None or predictions.network.path in paths
        ]
    )


def restricted(inputs: AnyInputs, recipe: BlendRecipe, kept: Sequence[Member]) -> tuple[AnyInputs, BlendRecipe]:
    """Inputs and recipe for only the networks of the members `kept`, with weights rescaled to sum to 1.

    `max_params` may not allow all networks of all members with weight; see `keep_within_max_params`.
    """
    total = sum(recipe.weights[member.name] for member in kept)
    weights = {member.name: recipe.weights[member.name] / total for member in kept}
    return view_of(inputs, kept), replace(recipe, weights=weights)


def predict_with(inputs: BlendInputs, recipe: BlendRecipe, kept: Sequence[Member]) -> list[list[int]]:
    """Predict with a recipe from only the networks of the members `kept`."""
    return predictions_of(*restricted(inputs, recipe, kept))


def predictions_of(inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
    """The predictions of a recipe's blender. Raises PlugInError if a plug-in's blender fails."""
    with BLENDERS.using(recipe.method):
        return checked_predictions(BLENDERS.get(recipe.method)().predict(inputs, recipe), inputs)


def distances(blender: Blender, inputs: BlendInputs, recipe: BlendRecipe) -> np.ndarray:
    """Edit distance (N,) of the blender's predictions to the references."""
    return edit_distances(checked_predictions(blender.predict(inputs, recipe), inputs), inputs.references)


def checked_predictions(predictions: Any, inputs: BlendInputs) -> list[list[int]]:
    """A blender's predictions, as lists of classes.

    Raises TypeError unless there is one sequence per utterance, ValueError for a class that does not exist.
    """
    sequences = [[int(token) for token in sequence] for sequence in predictions]
    if len(sequences) != len(inputs):
        raise TypeError(f"predicts {len(sequences)} sequences for {len(inputs)} utterances; expected one each")
    for token in itertools.chain.from_iterable(sequences):
        if not 0 < token < inputs.classes:
            raise ValueError(f"predicts class {token}; expected 1 to {inputs.classes - 1}")
    return sequences


def checked_recipe(recipe: Any, method: str, inputs: BlendInputs) -> BlendRecipe:
    """The result of a blender's `fit`. Raises TypeError or ValueError if it violates the contract of `Blender`.

    A recipe of another method would be evaluated as this blender but predict as the other; one beyond `max_params`
    would be evaluated with members that are left out of the prediction.
    """
    if not isinstance(recipe, BlendRecipe):
        raise TypeError(f"fit returned a {type(recipe).__name__}; expected a BlendRecipe")
    if recipe.method != method:
        raise ValueError(f"fit returned a recipe of {recipe.method!r}; expected BlendRecipe({method!r}, ...)")
    if strangers := sorted(set(recipe.weights) - set(inputs.names)):
        raise ValueError(f"fit gives weight to {strangers[0]!r}; the members are {', '.join(inputs.names)}")
    weights = recipe.weights.values()
    if not (all(weight > 0 for weight in weights) and math.isclose(sum(weights), 1, rel_tol=1e-6)):
        raise ValueError(f"fit returned the weights {recipe.weights}; expected positive ones that sum to 1")
    split = inputs.split
    if split.max_params is not None:
        cost = parameters_used(recipe.array(inputs.names) > 0, split.parameters, split.same_networks)
        if cost > split.max_params:
            raise ValueError(
                f"fit uses members with {cost:,.0f} parameters in all; expected at most {split.max_params:,}: choose "
                "them with select_members"
            )
    return recipe


def nested_distances(blender: Blender, inputs: BlendInputs, seed: int = 0) -> np.ndarray:
    """Edit distance (N,) by nested cross-validation: each outer fold is predicted with a recipe fitted on the others.
    """
    from sklearn.model_selection import LeaveOneGroupOut  # takes a second to import, and only a fit needs it

    nested = np.zeros(len(inputs), np.int64)
    for fitted, held_out in LeaveOneGroupOut().split(nested, groups=inputs.outer_folds):
        recipe = blender.fit(inputs.take(fitted), seed)
        nested[held_out] = distances(blender, inputs.take(held_out), recipe)
    return nested
