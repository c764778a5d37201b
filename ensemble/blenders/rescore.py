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

from ensemble.blenders.base import BLENDERS, Recipe, named, used
from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.fitting.settings import grid_search
from ensemble.hypotheses.blend_inputs import Evidence
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import MEANS, NO_PRIOR, Mixture, highest, prior_grid, with_prior


def scores(evidence: Evidence, recipe: Recipe) -> tuple[Pool, np.ndarray, list[int]]:
    """The pool of a recipe's members, every hypothesis's score (H,) and those members' numbers."""
    members = used(recipe, evidence.names)
    pool = evidence.pool(members)
    return pool, with_prior(acoustic(evidence, recipe, pool), pool, recipe.settings), members


def acoustic(evidence: Evidence, recipe: Recipe, pool: Pool) -> np.ndarray:
    """The members' joint log-likelihood (H,) of every string of their pool."""
    mixture = Mixture(pool, evidence.members_of(used(recipe, evidence.names)), recipe.settings["mean"])
    return mixture(recipe.array(evidence.names))


@BLENDERS.register("rescore")
class Rescore:
    """Union of N-best, rescored by the weighted exact log-likelihoods of all members, a phone LM and a length bonus."""

    def fit(self, evidence: Evidence, seed: int = 0) -> Recipe:
        """Greedy weights and a search over LM weight and bonus, in turns, for both means."""
        pool, members_of = evidence.pool(), evidence.members_of()
        found = []
        for mean in MEANS:
            mixture = Mixture(pool, members_of, mean)
            settings = NO_PRIOR | {"mean": mean}
            for _ in range(2):
                selection = greedy_selection(
                    lambda counts, m=mixture, s=settings: _loss(m(counts / counts.sum()), pool, s),
                    len(evidence.names),
                    seed=seed,
                    costs=evidence.panel.costs,
                    budget=evidence.panel.budget,
                )
                weights = selection.weights
                settings = fit_prior(mixture(weights), pool, settings)
            weights, loss = refine(lambda w, m=mixture, s=settings: _loss(m(w), pool, s), weights)
            found.append((loss, weights, settings))
        _, weights, settings = min(found, key=lambda each: each[0])
        recipe = Recipe("rescore", named(evidence.names, weights), settings)
        if weights.all():
            return recipe
        # Prediction takes its pool from the members with weight alone, so what is not weights is fitted on that pool.
        pool = evidence.pool(used(recipe, evidence.names))
        return replace(recipe, settings=fit_prior(acoustic(evidence, recipe, pool), pool, settings))

    def predict(self, evidence: Evidence, recipe: Recipe) -> list[list[int]]:
        """Strings from the pool of the members that have weight."""
        pool, scored, _ = scores(evidence, recipe)
        return pool.strings(highest(scored, pool.offsets))


def fit_prior(acoustic: np.ndarray, pool: Pool, settings: dict) -> dict:
    """The settings with the LM weight, length bonus and speller weight of the least out-of-fold distance."""
    return grid_search(lambda trial: _loss(acoustic, pool, trial), settings, prior_grid(pool))[0]


def _loss(acoustic: np.ndarray, pool: Pool, settings: dict) -> float:
    return float(pool.distance[highest(with_prior(acoustic, pool, settings), pool.offsets)].mean())
