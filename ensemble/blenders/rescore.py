"""Rescoring: choose the hypothesis of all members' N-best lists with the highest weighted mean CTC log-likelihood.

score(y) = weighted mean over members m of log P_m(y|x) + lm_weight * log P_LM(y) + length_bonus * len(y)
- prior_weight * sum over y's labels of their log prior + attention_weight * log P_attention(y|x); the last term needs a
member with an attention decoder. The mean is geometric (of log-likelihoods) or arithmetic (the logarithm of the mean
likelihood). Weights, mean and settings are fitted on out-of-fold edit distance; each trial is one matrix product with
the pool's table. A member's weight is divided equally among its fold models: out of fold there is one model per
utterance, so their weights cannot be fitted separately.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, select_members, used_members, weights_by_name
from ensemble.fitting.member_weights import refine
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.lm_settings import fit_lm_settings, fit_prior_weight, pool_distance
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import (
    MEANS,
    NO_LM_OR_ATTENTION,
    Mixture,
    best_hypotheses,
    combined_scores,
    normalized_posteriors,
)


@BLENDERS.register("rescore")
class Rescore:
    """The pool rescored by the weighted exact log-likelihoods of all members, a phone LM and a length bonus."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights and a search over LM weight and bonus, alternating, for both means."""
        _, weights, settings = min((self._fit(inputs, mean, seed) for mean in MEANS), key=lambda trial: trial[0])
        recipe = BlendRecipe("rescore", weights_by_name(inputs.names, weights), settings)
        if weights.all():
            return recipe
        # Prediction uses the pool of the members with weight, so the settings are fitted on that pool.
        pool, acoustic = member_pool(inputs, recipe)
        settings, _ = fit_lm_settings(acoustic, pool, settings)
        return replace(recipe, settings=fit_prior_weight(acoustic, pool, settings)[0])

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """Hypotheses from the pool of the members that have weight."""
        pool, acoustic = member_pool(inputs, recipe)
        return pool.chosen(best_hypotheses(acoustic, pool, recipe.settings))

    def posteriors(self, inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
        """The pool of the members that have weight, and posteriors (H,) proportional to exp(score)."""
        pool, acoustic = member_pool(inputs, recipe)
        return pool, normalized_posteriors(combined_scores(acoustic, pool, recipe.settings), pool.offsets)

    def _fit(self, inputs: BlendInputs, mean: str, seed: int) -> tuple[float, np.ndarray, dict[str, Any]]:
        """Mean distance, weights and settings for one mean."""
        pool = inputs.pool()
        mixture = Mixture(pool, inputs.member_of_column(), mean)
        settings: dict[str, Any] = NO_LM_OR_ATTENTION | {"mean": mean}

        def loss(weights: np.ndarray) -> float:
            return pool_distance(mixture(weights), pool, settings)

        for _ in range(2):
            selection = select_members(inputs, lambda counts: loss(counts / counts.sum()), seed, rounds=25, patience=8)
            acoustic = mixture(selection.weights)
            settings, _ = fit_lm_settings(acoustic, pool, settings)
            settings, _ = fit_prior_weight(acoustic, pool, settings)
        weights, value = refine(loss, selection.weights)
        return value, weights, settings


def member_pool(inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
    """The pool of the members with weight, and the joint log-likelihood (H,) of every hypothesis in it."""
    members = used_members(recipe, inputs.names)
    pool = inputs.pool(members)
    mixture = Mixture(pool, inputs.member_of_column(members), recipe.settings["mean"])
    return pool, mixture(recipe.array(inputs.names))
