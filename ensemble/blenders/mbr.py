"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, named
from ensemble.blenders.rescore import scores
from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.expected_distance import least_expected_distance
from ensemble.hypotheses.scoring import Mixture, combined_scores, lm_grid

# The posterior is proportional to exp(sharpness * score): below 1 it is flatter than the models, which are too sure.
SHARPNESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.7, 2.5)


@BLENDERS.register("mbr")
class MinimumBayesRisk:
    """Of the rescored pool, the string with the least expected edit distance under the members' joint posterior."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Starts from the rescoring recipe, then searches the posterior's sharpness, LM weight, bonus and weights."""
        start = BLENDERS.get("rescore")().fit(inputs, seed)
        loss = _loss(inputs, range(len(inputs.names)), start.settings["mean"])

        weights, settings = start.array(inputs.names), start.settings | {"sharpness": 1.0}
        grid = {"sharpness": SHARPNESS} | lm_grid(inputs.pool())
        settings, _ = coordinate_search(lambda s: loss(weights, s), settings, grid, rounds=2)
        selection = greedy_selection(
            lambda counts: loss(counts / counts.sum(), settings),
            len(inputs.names),
            rounds=12,
            seed=seed,
            costs=inputs.split.costs,
            budget=inputs.split.budget,
            patience=3,
        )
        if selection.loss < loss(weights, settings):
            weights = selection.weights
        weights, _ = refine(lambda w: loss(w, settings), weights)
        if not weights.all():  # as in rescoring: prediction takes its pool from the members with weight alone
            loss = _loss(inputs, np.flatnonzero(weights), start.settings["mean"])
        settings, _ = coordinate_search(lambda s: loss(weights, s), settings, grid, rounds=1)
        return BlendRecipe("mbr", named(inputs.names, weights), settings)

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """Strings from the pool of the members that have weight."""
        pool, scored, members = scores(inputs, recipe)
        chosen, _ = least_expected_distance(recipe.settings["sharpness"] * scored, pool.offsets, *inputs.pairs(members))
        return pool.strings(chosen)


def _loss(inputs: BlendInputs, members: Sequence[int], mean: str) -> Callable[[np.ndarray, dict], float]:
    """Mean distance as a function of all members' weights and the settings, on the pool of some members."""
    pool = inputs.pool(members)
    mixture = Mixture(pool, inputs.members_of(members), mean)
    pairs, offsets = inputs.pairs(members)

    def loss(weights: np.ndarray, settings: dict) -> float:
        log_posterior = settings["sharpness"] * combined_scores(mixture(weights), pool, settings)
        return float(pool.distance[least_expected_distance(log_posterior, pool.offsets, pairs, offsets)[0]].mean())

    return loss
