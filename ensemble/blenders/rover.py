"""ROVER as a blender: members vote slot by slot, and the scheme, its settings and the weights are fitted.

The alignment and the votes are in `ensemble.rover`. Instead of taking each slot's winner, as NIST's ROVER does, the
blender can also read the slots as a CTC matrix and search it with the language model. The setting `search` records
which of the two has the lower out-of-fold distance.

A member has one vote. If it has several networks, as on dev and test, its hypothesis is the one that they jointly score
best: with one vote per network, two poor networks would outvote a good one, and what was fitted out of fold, where each
member has one network per utterance, would not apply.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used_members, weights_by_name
from ensemble.fitting.member_weights import parameters_used
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.lm_settings import fit_lm_settings
from ensemble.hypotheses.member_decisions import best_of_member, ranked_members
from ensemble.hypotheses.nbest import nbest_of_matrices
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import NO_LM, best_hypotheses
from ensemble.rover import METHODS, NULL, ConfusionNetwork, align, as_log_probs, vote
from folds.store.ragged import Ragged, offsets_of

VOTE_GRID: dict[str, Sequence[Any]] = {
    "method": METHODS,
    "alpha": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "null_confidence": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}
# A slot has a null only where a token may be missing, so it needs a far smaller bonus than CTC frames, which are mostly
# blank.
SLOT_LM_GRID = {
    "lm_weight": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    "length_bonus": (-0.4, -0.2, 0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
}
# Hypotheses per utterance returned by the search in the slots: half of a member's N-best by default, to save time.
SLOT_NBEST = 50


@dataclass(frozen=True)
class _Slots:
    """The confusion networks of a split, concatenated so that one call counts all votes."""

    confusion_network: ConfusionNetwork
    offsets: np.ndarray
    """Utterance u has the slots `offsets[u]:offsets[u + 1]`, (N + 1,)."""
    members: list[int]
    """Member index of each system."""

    def vote(self, weights: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Winners (slots,) and scores (slots, systems), as returned by `ensemble.rover.vote`."""
        method, alpha, null_confidence = settings["method"], settings["alpha"], settings["null_confidence"]
        return vote(self.confusion_network, method, alpha, null_confidence, weights[self.members])

    def hypotheses(self, winners: np.ndarray) -> Ragged:
        """The winners of each utterance without nulls, int16."""
        kept = winners != NULL
        return Ragged(winners[kept].astype(np.int16), offsets_of(kept)[self.offsets])


@BLENDERS.register("rover")
class Rover:
    """ROVER over the members' best hypotheses, which are found with the language model."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Fit greedy weights on plain votes, then scheme, alpha and null confidence, then LM weight and bonus."""
        # The first member is the skeleton and wins ties.
        order = [inputs.names[member] for member in ranked_members(inputs)]
        slots = _align_slots(inputs, order, range(len(inputs.names)))
        rows, references = np.arange(len(inputs)), Ragged.of(inputs.references, np.int16)

        def loss(weights: np.ndarray, settings: Mapping[str, Any]) -> float:
            return float(to_references(slots.hypotheses(slots.vote(weights, settings)[0]), rows, references).mean())

        settings: dict[str, Any] = {"method": "avgconf", "alpha": 1.0, "null_confidence": 0.0}
        start = best_leading_members(inputs, order, lambda counts: loss(counts, settings))
        weights = select_members(inputs, lambda counts: loss(counts, settings), seed, start=start).weights
        if not weights.all():  # prediction aligns only members with weight, so fit the rest on that alignment
            slots = _align_slots(inputs, order, np.flatnonzero(weights))
        settings, _ = coordinate_search(lambda trial: loss(weights, trial), settings, VOTE_GRID, rounds=2)
        recipe = BlendRecipe("rover", weights_by_name(inputs.names, weights), settings | {"order": order})
        pool = _build_slot_pool(inputs, recipe)
        lm_settings, search_distance = fit_lm_settings(pool.ctc[:, 0], pool, dict(NO_LM), SLOT_LM_GRID)
        search = search_distance < loss(weights, settings)
        return replace(recipe, settings=recipe.settings | lm_settings | {"search": search})

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The vote of the members with weight, one vote per member whatever the number of its networks."""
        if recipe.settings["search"]:
            pool = _build_slot_pool(inputs, recipe)
            return pool.chosen(best_hypotheses(pool.ctc[:, 0], pool, recipe.settings))
        slots = _align_slots(inputs, recipe.settings["order"], used_members(recipe, inputs.names))
        hypotheses = slots.hypotheses(slots.vote(recipe.array(inputs.names), recipe.settings)[0])
        return [hypotheses[row].tolist() for row in range(len(hypotheses))]


def best_leading_members(
    inputs: BlendInputs, order: Sequence[str], loss: Callable[[np.ndarray], float]
) -> np.ndarray | None:
    """Counts that give one vote to each of the first k members in `order`, for the k with the lowest loss.

    Greedy selection cannot go from one member to three, because two equal votes never change the result; so the best
    1, 2, 3, … members are tried as a start too. None if `max_params` allows no member.
    """
    split = inputs.split
    ranks = np.array([order.index(name) for name in inputs.names])
    trials = [(ranks < count).astype(np.int64) for count in range(1, len(order) + 1)]
    if split.max_params is not None:
        limit, facts = split.max_params, (split.parameters, split.same_networks)
        trials = [trial for trial in trials if parameters_used(trial > 0, *facts) <= limit]
    return min(trials, key=loss, default=None)


def _align_slots(inputs: BlendInputs, order: Sequence[str], members: Sequence[int] | np.ndarray) -> _Slots:
    """Align the best hypotheses of `members`, one each, in the order of the names in `order`.

    `order` names all members that the recipe was fitted with; those without weight may be gone.
    """
    ordered = [index for index in map(inputs.names.index, filter(inputs.names.__contains__, order)) if index in members]
    systems = [best_of_member(inputs, member) for member in ordered]
    networks = [
        align([tokens[row].tolist() for tokens, _ in systems], [certain[row].tolist() for _, certain in systems])
        for row in range(len(inputs))
    ]
    arcs = np.concatenate([network.arcs for network in networks])
    confidences = np.concatenate([network.confidences for network in networks])
    return _Slots(ConfusionNetwork(arcs, confidences), offsets_of(len(network.arcs) for network in networks), ordered)


def _build_slot_pool(inputs: BlendInputs, recipe: BlendRecipe) -> Pool:
    """The pool of the N-best lists that a beam search finds in the slots, read as CTC matrices."""
    slots = _align_slots(inputs, recipe.settings["order"], used_members(recipe, inputs.names))
    _, scores = slots.vote(recipe.array(inputs.names), recipe.settings)
    arcs, classes = slots.confusion_network.arcs, inputs.split.classes
    spans = [slice(first, last) for first, last in itertools.pairwise(slots.offsets)]
    matrices = [as_log_probs(arcs[span], scores[span], classes) for span in spans]
    return inputs.pool_of(nbest_of_matrices(matrices, SLOT_NBEST, "ROVER slots"))
