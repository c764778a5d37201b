"""Minimum Bayes risk: choose the hypothesis of the rescored pool with the least expected edit distance to the others.

The posterior over the pool is proportional to exp(sharpness * score), with the scores of rescoring. The most probable
hypothesis minimises the probability of any error; this one minimises the expected number of edits, which the
competition counts. `ensemble.mbr` has the literature reference and the function for one utterance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used_members, weights_by_name
from ensemble.blenders.rescore import member_pool
from ensemble.fitting.member_weights import refine
from ensemble.fitting.settings import coordinate_search
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.expected_distance import least_expected_distance
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import Mixture, combined_scores, lm_grid, normalized_posteriors, prior_grid

# The models are overconfident; a sharpness below 1 flattens the posterior.
SHARPNESS = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.7, 2.5, 4.0)


@BLENDERS.register("mbr")
class MinimumBayesRisk:
    """The hypothesis of the rescored pool with the least expected edit distance under the members' joint posterior."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Start from the recipe of rescoring, then search the posterior's sharpness, LM weight, bonus and weights."""
        start = BLENDERS.get("rescore")().fit(inputs, seed)
        loss = _loss(inputs, range(len(inputs.names)), start.settings["mean"])
        grid = _settings_grid(inputs.pool())

        weights = start.array(inputs.names)
        settings, _ = coordinate_search(
            lambda trial: loss(weights, trial), start.settings | {"sharpness": 1.0}, grid, rounds=2
        )
        selection = select_members(inputs, lambda counts: loss(counts / counts.sum(), settings), seed)
        if selection.loss < loss(weights, settings):
            weights = selection.weights
        weights, _ = refine(lambda trial: loss(trial, settings), weights)
        if not weights.all():  # as in rescoring, prediction uses the pool of the members with weight
            loss = _loss(inputs, np.flatnonzero(weights), start.settings["mean"])
        settings, _ = coordinate_search(lambda trial: loss(weights, trial), settings, grid, rounds=1)
        return BlendRecipe("mbr", weights_by_name(inputs.names, weights), settings)

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """Hypotheses from the pool of the members that have weight."""
        pool, log_posterior = _pool_with_log_posterior(inputs, recipe)
        pairwise = inputs.pairwise_distances(used_members(recipe, inputs.names))
        return pool.chosen(least_expected_distance(log_posterior, pool.offsets, pairwise)[0])

    def posteriors(self, inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
        """The pool of the members that have weight, and posteriors (H,) proportional to exp(sharpness * score)."""
        pool, log_posterior = _pool_with_log_posterior(inputs, recipe)
        return pool, normalized_posteriors(log_posterior, pool.offsets)


def _pool_with_log_posterior(inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
    """The pool of the members with weight, and its hypotheses' log-posteriors (H,) up to a constant per utterance."""
    pool, acoustic = member_pool(inputs, recipe)
    return pool, recipe.settings["sharpness"] * combined_scores(acoustic, pool, recipe.settings)


def _settings_grid(pool: Pool) -> dict[str, tuple[float, ...]]:
    """The values to search for the sharpness and for each weight of a score."""
    return {"sharpness": SHARPNESS, **lm_grid(pool), **prior_grid(pool)}


def _loss(
    inputs: BlendInputs, members: Sequence[int] | np.ndarray, mean: str
) -> Callable[[np.ndarray, Mapping[str, Any]], float]:
    """A function from all members' weights and the settings to the mean distance, on the pool of some members."""
    pool, pairwise = inputs.pool(members), inputs.pairwise_distances(members)
    mixture = Mixture(pool, inputs.member_of_column(members), mean)

    def loss(weights: np.ndarray, settings: Mapping[str, Any]) -> float:
        log_posterior = settings["sharpness"] * combined_scores(mixture(weights), pool, settings)
        return pool.mean_distance(least_expected_distance(log_posterior, pool.offsets, pairwise)[0])

    return loss
