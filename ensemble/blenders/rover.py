"""ROVER as a blender: members vote slot by slot, and the scheme, its settings and the weights are fitted.

The alignment and the votes are in `ensemble.rover`. The slots can also be read as a CTC matrix and searched with the
language model, where that is better out of fold than the vote as NIST counts it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used, weights_by_name
from ensemble.blenders.lm_settings import fit_lm_settings
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.nbest import nbest_of_matrices
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import best_hypotheses, prediction_weights
from ensemble.rover import METHODS, NULL, ConfusionNetwork, as_log_probs, vote
from folds.competition.metric import edit_distances
from folds.store.ragged import Ragged, offsets_of

VOTE_GRID: dict[str, Sequence[Any]] = {
    "method": METHODS,
    "alpha": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "null_confidence": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}
# A slot has a null only where a token may be missing, so it needs a far smaller bonus than CTC's blanks do.
SLOT_LM_GRID = {
    "lm_weight": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    "length_bonus": (-0.4, -0.2, 0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
}
DEPTH = 50


@dataclass(frozen=True)
class _Slots:
    """The aligned networks of a split one after the other, `offsets` (N + 1,) in slots, so that one call counts all."""

    network: ConfusionNetwork
    offsets: np.ndarray
    member_of: list[int]

    def vote(self, weights: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Winners (slots,) and scores (slots, systems), as `ensemble.rover.vote` gives them."""
        shares = prediction_weights(self.member_of, weights)
        return vote(self.network, settings["method"], settings["alpha"], settings["null_confidence"], shares)

    def hypotheses(self, winners: np.ndarray) -> Ragged:
        """The winners of each utterance without nulls, int16."""
        kept = winners != NULL
        return Ragged(winners[kept].astype(np.int16), offsets_of(kept)[self.offsets])


@BLENDERS.register("rover")
class Rover:
    """NIST ROVER among the members' best hypotheses, found with the language model; optionally with a beam search."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights by plain votes, then scheme, alpha and null confidence, then LM weight and bonus."""
        order = _members_in_order(inputs)
        slots = _slots(inputs, order, range(len(inputs.names)))
        rows, references = np.arange(len(inputs)), Ragged.of(inputs.references, np.int16)

        def loss(weights: np.ndarray, settings: Mapping[str, Any]) -> float:
            return float(to_references(slots.hypotheses(slots.vote(weights, settings)[0]), rows, references).mean())

        settings: dict[str, Any] = {"method": "avgconf", "alpha": 1.0, "null_confidence": 0.0}
        start = _first_few(inputs, order, lambda counts: loss(counts, settings))
        weights = select_members(inputs, lambda counts: loss(counts, settings), seed, start=start).weights
        if not weights.all():  # prediction aligns only those with weight, so the rest is fitted on that alignment
            slots = _slots(inputs, order, np.flatnonzero(weights))
        settings, _ = coordinate_search(lambda trial: loss(weights, trial), settings, VOTE_GRID, rounds=2)
        recipe = BlendRecipe("rover", weights_by_name(inputs.names, weights), settings | {"order": order})
        pool = _pool(inputs, recipe)
        no_lm = {"lm_weight": 0.0, "length_bonus": 0.0}
        lm_settings, value = fit_lm_settings(pool.ctc[:, 0], pool, no_lm, SLOT_LM_GRID)
        # The search is used only where it is better than the vote as NIST counts it.
        better = value < loss(weights, settings)
        return replace(recipe, settings=recipe.settings | lm_settings | {"search": better})

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The vote of the members with weight, each member's weight shared by its fold models."""
        if recipe.settings["search"]:
            pool = _pool(inputs, recipe)
            return pool.chosen(best_hypotheses(pool.ctc[:, 0], pool, recipe.settings))
        slots = _slots(inputs, recipe.settings["order"], used(recipe, inputs.names))
        hypotheses = slots.hypotheses(slots.vote(recipe.array(inputs.names), recipe.settings)[0])
        return [hypotheses[row].tolist() for row in range(len(hypotheses))]


def _members_in_order(inputs: BlendInputs) -> list[str]:
    """Names of the members, the lowest out-of-fold distance first: the first is the skeleton and wins ties."""
    mean_distances = []
    for index in inputs.predictions_of():
        best = [list(inputs.best_with_lm(index, row)[0]) for row in range(len(inputs))]
        mean_distances.append(float(edit_distances(best, inputs.references).mean()))
    order = sorted(range(len(mean_distances)), key=lambda member: (mean_distances[member], member))
    return [inputs.names[member] for member in order]


def _first_few(
    inputs: BlendInputs, order: Sequence[str], loss: Callable[[np.ndarray], float]
) -> np.ndarray | None:
    """Counts of one vote for each of the first few members in order, as many as give the lowest loss.

    None where the budget allows none. Two votes are a tie or a veto, so greedy selection that starts from one member
    never reaches the three that outvote it.
    """
    costs, budget = inputs.split.costs, inputs.split.budget
    ranks = np.array([order.index(name) for name in inputs.names])
    trials = [(ranks < count).astype(np.int64) for count in range(1, len(order) + 1)]
    if costs is not None and budget is not None:
        trials = [trial for trial in trials if float(np.dot(trial, costs)) <= budget]
    return min(trials, key=loss, default=None)


def _slots(inputs: BlendInputs, order: Sequence[str], members: Sequence[int] | np.ndarray) -> _Slots:
    """The slots of some members' predictions, aligned in the members' order."""
    numbers = [inputs.names.index(name) for name in order]
    indices = [index for member in numbers if member in members for index in inputs.predictions_of([member])]
    networks = [inputs.network(row, indices) for row in range(len(inputs))]
    arcs = np.concatenate([network.arcs for network in networks])
    confidences = np.concatenate([network.confidences for network in networks])
    return _Slots(
        ConfusionNetwork(arcs, confidences),
        offsets_of(len(network.arcs) for network in networks),
        [inputs.split.predictions[index].member for index in indices],
    )


def _pool(inputs: BlendInputs, recipe: BlendRecipe) -> Pool:
    """N-best lists of the slots read as a CTC matrix, as a pool with one column of likelihoods."""
    slots = _slots(inputs, recipe.settings["order"], used(recipe, inputs.names))
    _, scores = slots.vote(recipe.array(inputs.names), recipe.settings)
    arcs, classes = slots.network.arcs, inputs.split.classes
    spans = [slice(first, last) for first, last in itertools.pairwise(slots.offsets)]
    matrices = [as_log_probs(arcs[span], scores[span], classes) for span in spans]
    return inputs.pool_of(nbest_of_matrices(matrices, DEPTH, "ROVER slots"))
