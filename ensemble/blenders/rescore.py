"""Rescoring: of all members' N-best, the string with the highest weighted mean of exact CTC log-likelihoods.

score(y) = mean over members of log P_m(y|x), weighted, + lm_weight * log P_LM(y) + length_bonus * len(y), and, where a
member has an attention speller, + speller_weight * log P_speller(y|x). The mean is geometric (of log-likelihoods) or
arithmetic (the logarithm of the mean likelihood). Weights, mean and the rest are fitted on out-of-fold edit distance;
each trial is one product over the pool's table. A member's weight is shared equally by its fold models: out of fold
there is one model an utterance, so nothing tells folds apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, named, used
from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.fitting.settings import grid_search
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import MEANS, NO_LM, Mixture, best_per_utterance, combined_scores, lm_grid


def scores(inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray, list[int]]:
    """The pool of a recipe's members, every hypothesis's score (H,) and those members' numbers."""
    members = used(recipe, inputs.names)
    pool = inputs.pool(members)
    return pool, combined_scores(acoustic(inputs, recipe, pool), pool, recipe.settings), members


def acoustic(inputs: BlendInputs, recipe: BlendRecipe, pool: Pool) -> np.ndarray:
    """The members' joint log-likelihood (H,) of every string of their pool."""
    mixture = Mixture(pool, inputs.members_of(used(recipe, inputs.names)), recipe.settings["mean"])
    return mixture(recipe.array(inputs.names))


@BLENDERS.register("rescore")
class Rescore:
    """Union of N-best, rescored by the weighted exact log-likelihoods of all members, a phone LM and a length bonus."""

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Greedy weights and a search over LM weight and bonus, in turns, for both means."""
        pool, members_of = inputs.pool(), inputs.members_of()
        found = []
        for mean in MEANS:
            mixture = Mixture(pool, members_of, mean)
            settings = NO_LM | {"mean": mean}
            for _ in range(2):
                selection = greedy_selection(
                    lambda counts, m=mixture, s=settings: _loss(m(counts / counts.sum()), pool, s),
                    len(inputs.names),
                    seed=seed,
                    costs=inputs.split.costs,
                    budget=inputs.split.budget,
                )
                weights = selection.weights
                settings = fit_lm_settings(mixture(weights), pool, settings)
            weights, loss = refine(lambda w, m=mixture, s=settings: _loss(m(w), pool, s), weights)
            found.append((loss, weights, settings))
        _, weights, settings = min(found, key=lambda each: each[0])
        recipe = BlendRecipe("rescore", named(inputs.names, weights), settings)
        if weights.all():
            return recipe
        # Prediction takes its pool from the members with weight alone, so what is not weights is fitted on that pool.
        pool = inputs.pool(used(recipe, inputs.names))
        return replace(recipe, settings=fit_lm_settings(acoustic(inputs, recipe, pool), pool, settings))

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """Strings from the pool of the members that have weight."""
        pool, scored, _ = scores(inputs, recipe)
        return pool.strings(best_per_utterance(scored, pool.offsets))


def fit_lm_settings(acoustic: np.ndarray, pool: Pool, settings: dict) -> dict:
    """The settings with the LM weight, length bonus and speller weight of the least out-of-fold distance."""
    return grid_search(lambda trial: _loss(acoustic, pool, trial), settings, lm_grid(pool))[0]


def _loss(acoustic: np.ndarray, pool: Pool, settings: dict) -> float:
    return float(pool.distance[best_per_utterance(combined_scores(acoustic, pool, settings), pool.offsets)].mean())
