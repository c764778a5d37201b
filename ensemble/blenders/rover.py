"""TODO"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, named, used
from ensemble.fitting.member_weights import greedy_selection
from ensemble.fitting.settings import coordinate_search, grid_search
from ensemble.hypotheses.blend_inputs import BlendInputs, pool_of_nbest, stack
from ensemble.hypotheses.edit_distance import flatten, to_references
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import best_of_column, prediction_weights
from ensemble.rover import METHODS, NULL, ConfusionNetwork, as_log_probs, vote
from folds.competition.metric import edit_distances

GRID = {
    "method": METHODS,
    "alpha": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "null_confidence": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}


# A slot has a null where a token may be missing, so it needs far less of a bonus than CTC's blanks do.
LM_GRID = {
    "lm_weight": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    "length_bonus": (-0.4, -0.2, 0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
}


DEPTH = 50


@dataclass(frozen=True)
class _Slots:
    """The aligned networks of a split one after the other, `offsets` (N + 1,) in slots.

    Slots are counted each by itself, so a trial of another scheme is one count over them all.
    """

    network: ConfusionNetwork
    offsets: np.ndarray
    member_of: list[int]

    def vote(self, weights: np.ndarray, settings: dict) -> tuple[np.ndarray, np.ndarray]:
        shares = prediction_weights(self.member_of, weights)
        return vote(self.network, settings["method"], settings["alpha"], settings["null_confidence"], shares)

    def strings(self, winners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The winners without nulls: tokens int16 and their offsets (N + 1,)."""
        said = winners != NULL
        return winners[said].astype(np.int16), np.concatenate([[0], np.cumsum(said)])[self.offsets]


@BLENDERS.register("rover")
class Rover:
    """NIST ROVER among the members' best strings, found with the language model; slots go through the beam search."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights by plain votes, then scheme, alpha and null confidence, then LM weight and bonus."""
        rows = np.arange(len(inputs))
        alone = [
            float(edit_distances([list(inputs.nbest_row(s, row)[0]) for row in rows], inputs.references).mean())
            for s in inputs.predictions_of()
        ]
        order = [inputs.names[m] for m in sorted(range(len(alone)), key=lambda m: (alone[m], m))]
        slots = _slots(inputs, order, range(len(inputs.names)))
        references = flatten(inputs.references)

        def loss(weights: np.ndarray, settings: dict) -> float:
            return float(to_references(*slots.strings(slots.vote(weights, settings)[0]), rows, *references).mean())

        settings = {"method": "avgconf", "alpha": 1.0, "null_confidence": 0.0}
        weights = greedy_selection(
            lambda counts: loss(counts, settings),
            len(inputs.names),
            rounds=12,
            seed=seed,
            costs=inputs.split.costs,
            budget=inputs.split.budget,
            patience=3,
            start=_best_few(inputs, order, lambda counts: loss(counts, settings)),
        ).weights
        if not weights.all():  # prediction aligns only those with weight, so the rest is fitted on that alignment
            slots = _slots(inputs, order, np.flatnonzero(weights))
        settings, _ = coordinate_search(lambda s: loss(weights, s), settings, GRID, rounds=2)
        recipe = BlendRecipe("rover", named(inputs.names, weights), settings | {"order": order, "search": False})
        pool = _pool(inputs, recipe)
        searched, value = grid_search(
            lambda s: float(pool.distance[best_of_column(pool, s)].mean()), {"lm_weight": 0.0, "length_bonus": 0.0}, LM_GRID
        )
        # The search is kept only where it beats the vote as NIST counts it.
        better = value < loss(weights, settings)
        return BlendRecipe("rover", recipe.weights, recipe.settings | searched | {"search": better})

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The vote of the members with weight, each member's weight shared by its fold models."""
        if recipe.settings["search"]:
            pool = _pool(inputs, recipe)
            return pool.strings(best_of_column(pool, recipe.settings))
        slots = _slots(inputs, recipe.settings["order"], used(recipe, inputs.names))
        tokens, offsets = slots.strings(slots.vote(recipe.array(inputs.names), recipe.settings)[0])
        return [tokens[first:last].tolist() for first, last in itertools.pairwise(offsets)]


def _best_few(inputs: BlendInputs, order: Sequence[str], loss: Callable[[np.ndarray], float]) -> np.ndarray | None:
    """Counts of the first so many of `order`, one vote each, with the lowest loss; None where the budget allows none.

    Two votes are a tie or a veto, so from one member alone greedy selection never gets to the three that outvote it.
    """
    costs, budget = inputs.split.costs, inputs.split.budget
    ranks = [order.index(name) for name in inputs.names]
    trials = [(np.array(ranks) < count).astype(np.int64) for count in range(1, len(order) + 1)]
    if costs is not None and budget is not None:
        trials = [trial for trial in trials if float(np.dot(trial, costs)) <= budget]
    return min(trials, key=loss, default=None)


def _slots(inputs: BlendInputs, order: Sequence[str], members: Sequence[int]) -> _Slots:
    ranked = [inputs.names.index(name) for name in order if inputs.names.index(name) in members]
    predictions = [stream for member in ranked for stream in inputs.predictions_of([member])]
    networks = [inputs.network(row, predictions) for row in range(len(inputs))]
    whole = ConfusionNetwork(*(np.concatenate([getattr(n, part) for n in networks]) for part in ("arcs", "confidences")))
    offsets = np.concatenate([[0], np.cumsum([len(n.arcs) for n in networks])])
    return _Slots(whole, offsets, [inputs.split.predictions[stream].member for stream in predictions])


def _pool(inputs: BlendInputs, recipe: BlendRecipe) -> Pool:
    """N-best of the slots read as a CTC matrix, as a pool of one column."""
    slots = _slots(inputs, recipe.settings["order"], used(recipe, inputs.names))
    _, shares = slots.vote(recipe.array(inputs.names), recipe.settings)
    arcs, classes = slots.network.arcs, inputs.split.classes
    spans = [slice(first, last) for first, last in itertools.pairwise(slots.offsets)]
    matrices = [as_log_probs(arcs[span], shares[span], classes) for span in spans]
    return pool_of_nbest(nbest_of(stack(matrices), DEPTH, "rover"), inputs)
