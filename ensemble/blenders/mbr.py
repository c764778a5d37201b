"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ensemble.blenders.base import BLENDERS, Recipe, named
from ensemble.blenders.rescore import scores
from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.blend_inputs import Evidence
from ensemble.hypotheses.expected_distance import least_risk
from ensemble.hypotheses.scoring import Mixture, prior_grid, with_prior

# The posterior is proportional to exp(sharpness * score): below 1 it is flatter than the models, which are too sure.
SHARPNESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.7, 2.5)


@BLENDERS.register("mbr")
class MinimumBayesRisk:
    """Of the rescored pool, the string with the least expected edit distance under the members' joint posterior."""

    def fit(self, evidence: Evidence, seed: int = 0) -> Recipe:
        """Starts from the rescoring recipe, then searches the posterior's sharpness, LM weight, bonus and weights."""
        start = BLENDERS.get("rescore")().fit(evidence, seed)
        loss = _loss(evidence, range(len(evidence.names)), start.settings["mean"])

        weights, settings = start.array(evidence.names), start.settings | {"sharpness": 1.0}
        grid = {"sharpness": SHARPNESS} | prior_grid(evidence.pool())
        settings, _ = coordinate_search(lambda s: loss(weights, s), settings, grid, rounds=2)
        selection = greedy_selection(
            lambda counts: loss(counts / counts.sum(), settings),
            len(evidence.names),
            rounds=12,
            seed=seed,
            costs=evidence.panel.costs,
            budget=evidence.panel.budget,
            patience=3,
        )
        if selection.loss < loss(weights, settings):
            weights = selection.weights
        weights, _ = refine(lambda w: loss(w, settings), weights)
        if not weights.all():  # as in rescoring: prediction takes its pool from the members with weight alone
            loss = _loss(evidence, np.flatnonzero(weights), start.settings["mean"])
        settings, _ = coordinate_search(lambda s: loss(weights, s), settings, grid, rounds=1)
        return Recipe("mbr", named(evidence.names, weights), settings)

    def predict(self, evidence: Evidence, recipe: Recipe) -> list[list[int]]:
        """Strings from the pool of the members that have weight."""
        pool, scored, members = scores(evidence, recipe)
        chosen, _ = least_risk(recipe.settings["sharpness"] * scored, pool.offsets, *evidence.pairs(members))
        return pool.strings(chosen)


def _loss(evidence: Evidence, members: Sequence[int], mean: str) -> Callable[[np.ndarray, dict], float]:
    """Mean distance as a function of all members' weights and the settings, on the pool of some members."""
    pool = evidence.pool(members)
    mixture = Mixture(pool, evidence.members_of(members), mean)
    pairs, offsets = evidence.pairs(members)

    def loss(weights: np.ndarray, settings: dict) -> float:
        log_posterior = settings["sharpness"] * with_prior(mixture(weights), pool, settings)
        return float(pool.distance[least_risk(log_posterior, pool.offsets, pairs, offsets)[0]].mean())

    return loss
