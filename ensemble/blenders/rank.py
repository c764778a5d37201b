"""Ranking: a log-linear posterior over the pool, trained for the least expected edit distance, and its consensus.

It starts from the recipe of rescoring, which chooses the members. Then the weights of the joint likelihood, the
members' likelihoods, the language model, the label prior and attention, and a bonus for every label, are fitted jointly
by minimum-risk training. The decision minimises the expected edit distance under the ranker's own posterior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, used_members
from ensemble.blenders.mbr import SHARPNESS
from ensemble.blenders.rescore import member_pool
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.expected_distance import least_expected_distance
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import combined_scores, keep_best, normalized_posteriors
from ensemble.ranking.consensus import consensus
from ensemble.ranking.features import Features, ranking_features
from ensemble.ranking.minimum_risk import fit_minimum_risk
from folds.store.ragged import Ragged

# Hypotheses per utterance on which the weights are fitted; the posterior of the others is negligible.
TRAINING_HYPOTHESES = 80
# Factors for the fitted weights: the decision may need a flatter or sharper posterior than the training objective.
SHARPENING = (0.5, 0.7, 1.0, 1.4, 2.0)


@BLENDERS.register("rank")
class Rank:
    """The consensus of a log-linear posterior over the pool, trained for the least expected edit distance."""

    weighs_networks = True

    def fit(self, inputs: BlendInputs, seed: int = 0) -> BlendRecipe:
        """Rescoring's recipe, the sharpness of its posterior, then all weights of the posterior together."""
        start = BLENDERS.get("rescore")().fit(inputs, seed)
        pool, joint = member_pool(inputs, start)
        features = _features_of(inputs, start, pool, joint)
        pairwise = inputs.pairwise_distances(used_members(start, inputs.names))

        def best_factor(scores: np.ndarray, factors: Sequence[float]) -> float:
            losses = [_mean_distance(factor * scores, pool, pairwise) for factor in factors]
            return factors[int(np.argmin(losses))]

        sharpness = best_factor(combined_scores(joint, pool, start.settings), SHARPNESS)
        initial = sharpness * _start_weights(start.settings, features.names)
        assert pool.distance is not None  # inputs to fit on have references
        kept, offsets = keep_best(features.values @ initial, pool.offsets, TRAINING_HYPOTHESES)
        weights = fit_minimum_risk(features.values[kept], pool.distance[kept], offsets, initial)
        weights *= best_factor(features.values @ weights, SHARPENING)
        ranker = {name: float(weight) for name, weight in zip(features.names, weights, strict=True) if weight}
        return BlendRecipe("rank", start.weights, {"mean": start.settings["mean"], "ranker": ranker})

    def predict(self, inputs: BlendInputs, recipe: BlendRecipe) -> list[list[int]]:
        """The consensus of the pool of the members with weight."""
        pool, features = pool_with_features(inputs, recipe)
        pairwise = inputs.pairwise_distances(used_members(recipe, inputs.names))
        return decide(features.weigh(recipe.settings["ranker"]), pool, pairwise, inputs.split.classes)

    def posteriors(self, inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, np.ndarray]:
        """The pool of the members with weight, and its hypotheses' posteriors (H,) under the ranker."""
        pool, features = pool_with_features(inputs, recipe)
        return pool, normalized_posteriors(features.weigh(recipe.settings["ranker"]), pool.offsets)


def pool_with_features(inputs: BlendInputs, recipe: BlendRecipe) -> tuple[Pool, Features]:
    """The pool of the members with weight, and the features of its hypotheses."""
    pool, joint = member_pool(inputs, recipe)
    return pool, _features_of(inputs, recipe, pool, joint)


def _features_of(inputs: BlendInputs, recipe: BlendRecipe, pool: Pool, joint: np.ndarray) -> Features:
    """The features of the hypotheses in `member_pool`, given with their joint log-likelihoods (H,)."""
    member_of = inputs.member_of_column(used_members(recipe, inputs.names))
    return ranking_features(pool, joint, member_of, inputs.names, inputs.split.classes)


def decide(scores: np.ndarray, pool: Pool, pairwise: Ragged, classes: int) -> list[list[int]]:
    """The consensus of each utterance, from log-posteriors (H,) up to a constant and `inputs.pairwise_distances`."""
    start, _ = least_expected_distance(scores, pool.offsets, pairwise)
    decisions = consensus(pool.tokens, pool.offsets, normalized_posteriors(scores, pool.offsets), start, classes)
    return [decisions[row].tolist() for row in range(len(decisions))]


def _start_weights(settings: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """The weights of rescoring for the features `names`."""
    named = {"lm": "lm_weight", "length": "length_bonus", "prior": "prior_weight", "attention": "attention_weight"}
    weights = {"joint": 1.0} | {feature: settings.get(name, 0.0) for feature, name in named.items()}
    return np.array([weights.get(name, 0.0) for name in names])


def _mean_distance(scores: np.ndarray, pool: Pool, pairwise: Ragged) -> float:
    return pool.mean_distance(least_expected_distance(scores, pool.offsets, pairwise)[0])
