"""Rescoring: of all members' N-best, the string with the highest weighted mean of exact CTC log-likelihoods.

score(y) = mean over members of log P_m(y|x), weighted, + lm_weight * log P_LM(y) + length_bonus * len(y). The mean is
geometric (of log-likelihoods) or arithmetic (the logarithm of the mean likelihood). Weights, mean, language model and
bonus are fitted on out-of-fold edit distance; each trial is one product over the pool's table. A member's weight is
shared equally by its fold models: out of fold there is one model an utterance, so nothing tells folds apart.
"""

from __future__ import annotations

import numpy as np

from .blender import BLENDERS, Recipe, named, used
from .evidence import Evidence
from .pool import Pool, gather, highest
from .weights import coordinate_search, greedy_selection, refine

LM_WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
BONUSES = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
MEANS = ("geometric", "arithmetic")


def combine(pool: Pool, members_of: list[int], weights: np.ndarray, settings: dict) -> np.ndarray:
    """Every hypothesis's score (H,)."""
    acoustic = gather(pool, members_of, weights, settings["mean"])
    return acoustic + settings["lm_weight"] * pool.lm + settings["length_bonus"] * pool.lengths


@BLENDERS.register("rescore")
class Rescore:
    """Union of N-best, rescored by the weighted exact log-likelihoods of all members, a phone LM and a length bonus."""

    def fit(self, evidence: Evidence, seed: int = 0) -> Recipe:
        """Greedy weights and a coordinate search over LM weight and bonus, in turns, for both means."""
        pool, members_of = evidence.pool(), evidence.members_of()
        found = []
        for mean in MEANS:
            settings = {"mean": mean, "lm_weight": 0.0, "length_bonus": 0.0}
            for _ in range(2):
                selection = greedy_selection(
                    lambda counts, s=settings: _loss(pool, members_of, counts / counts.sum(), s),
                    len(evidence.names),
                    seed=seed,
                    costs=evidence.panel.costs,
                    budget=evidence.panel.budget,
                )
                weights = selection.weights
                settings, _ = coordinate_search(
                    lambda s, w=weights: _loss(pool, members_of, w, s),
                    settings,
                    {"lm_weight": LM_WEIGHTS, "length_bonus": BONUSES},
                )
            weights, loss = refine(lambda w, s=settings: _loss(pool, members_of, w, s), weights)
            found.append((loss, weights, settings))
        _, weights, settings = min(found, key=lambda each: each[0])
        return Recipe("rescore", named(evidence.names, weights), settings)

    def predict(self, evidence: Evidence, recipe: Recipe) -> list[list[int]]:
        """Strings from the pool of the members that have weight."""
        members = used(recipe, evidence.names)
        pool = evidence.pool(members)
        scores = combine(pool, evidence.members_of(members), recipe.array(evidence.names), recipe.settings)
        return pool.strings(highest(scores, pool.offsets))


def _loss(pool: Pool, members_of: list[int], weights: np.ndarray, settings: dict) -> float:
    return float(pool.distance[highest(combine(pool, members_of, weights, settings), pool.offsets)].mean())
