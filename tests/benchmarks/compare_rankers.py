"""Boosted trees beside the log-linear ranker of the blender `rank`: nested out-of-fold and dev distances.

    pip install lightgbm
    python tests/benchmarks/compare_rankers.py --data data --runs runs

All rank the same pools. "rank" is the log-linear posterior. "trees on top" adds trees to its scores, each fitted to the
gradient of the expected edit distance. "lambdarank" and "rank_xendcg" are LightGBM's ranking objectives, with edits
below the pool's worst as relevance; the scale of their scores, which a posterior needs, is fitted on predictions for
speakers that their trees have not seen. Every decision is the consensus of the posterior, as that of `rank` is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, used_members
from ensemble.blenders.rank import decide, pool_with_features
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.expected_distance import least_expected_distance
from ensemble.hypotheses.open_inputs import InputOptions, open_inputs
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import keep_best, normalized_posteriors
from ensemble.members.member import group_by_member
from ensemble.members.stores import StoresOptions
from ensemble.ranking.features import Features
from ensemble.ranking.per_utterance import relative_to_best, spread
from folds.competition.bootstrap import paired_bootstrap
from folds.competition.metric import edit_distances
from folds.store.ragged import Ragged
from registry import InputError, command
from registry.bounds import MAX_SEED, MAX_UTTERANCES, number
from registry.command_line import parse_options

try:
    import lightgbm
except ImportError:
    lightgbm = None

TRAINING_HYPOTHESES = 80
RELEVANCES = 7
SCALES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
TREES = {"learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 200, "deterministic": True, "verbose": -1}
ON_TOP = TREES | {"learning_rate": 0.1, "num_leaves": 8, "lambda_l2": 20.0, "min_sum_hessian_in_leaf": 1.0}


@dataclass(frozen=True)
class Options(StoresOptions):
    """Compare rankers on the pools of finished members."""

    rounds: int = number(60, at_least=1, at_most=10_000)
    """Trees of each boosted ranker."""
    limit: int = number(4000, at_least=2, at_most=MAX_UTTERANCES)
    """Out-of-fold utterances to fit on."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed of the fits."""


@dataclass(frozen=True)
class Ranked:
    """A pool, the log-linear ranker's scores (H,) of its hypotheses, and their features for trees (H, F)."""

    pool: Pool
    scores: np.ndarray
    features: np.ndarray
    pairwise: Ragged
    folds: np.ndarray
    """The outer fold of each utterance, (N,)."""

    def take(self, rows: np.ndarray) -> Ranked:
        """Those of some utterances."""
        kept, _ = Ragged(self.scores, self.pool.offsets).rows_of(rows)
        pairwise = Ragged.of([self.pairwise[row] for row in rows], np.uint8)
        return Ranked(self.pool.take(rows), self.scores[kept], self.features[kept], pairwise, self.folds[rows])

    def likely(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices and offsets of the hypotheses to fit on: the others have next to no posterior."""
        return keep_best(self.scores, self.pool.offsets, TRAINING_HYPOTHESES)


Ranker = Callable[[Ranked], np.ndarray]
"""Gives log-posteriors (H,) up to a constant."""


def rank_pool(inputs: BlendInputs, recipe: BlendRecipe) -> Ranked:
    """The whole pool of a recipe of `rank`, with the features for trees."""
    pool, features = pool_with_features(inputs, recipe)
    scores = features.weigh(recipe.settings["ranker"])
    pairwise = inputs.pairwise_distances(used_members(recipe, inputs.names))
    values = tree_features(pool, features, scores, pairwise)
    return Ranked(pool, scores, values, pairwise, inputs.outer_folds)


def tree_features(pool: Pool, features: Features, scores: np.ndarray, pairwise: Ragged) -> np.ndarray:
    """What trees see of each hypothesis, (H, F) float32.

    Score, posterior and rank; the log-linear features minus their expectation in the pool, and ranks by them; the
    expected edit distance under the ranker and under each member, above the least in the pool; entropy and length.
    """
    offsets = pool.offsets
    posterior = normalized_posteriors(scores, offsets)
    log_posterior = np.log(posterior + 1e-30)
    entropy = spread(-np.add.reduceat(posterior * log_posterior, offsets[:-1]), offsets)
    columns = [relative_to_best(scores, offsets), log_posterior, ranks(scores, offsets), entropy, pool.lengths]
    columns.append(excess_distance(posterior, offsets, pairwise))
    for name, values in zip(features.names, features.values.T.astype(np.float64), strict=True):
        if name.startswith("label "):
            continue
        columns.append(values - spread(np.add.reduceat(posterior * values, offsets[:-1]), offsets))
        if name == "joint" or name.startswith("member "):
            columns.append(ranks(values, offsets))
            columns.append(excess_distance(normalized_posteriors(values, offsets), offsets, pairwise))
    return np.column_stack(columns).astype(np.float32)


def ranks(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each hypothesis's place in the pool of its utterance by falling score, (H,) from 0."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places = np.empty(len(scores), np.int64)
    places[np.lexsort((-scores, rows))] = np.arange(len(scores))
    return places - spread(offsets[:-1], offsets)


def excess_distance(posterior: np.ndarray, offsets: np.ndarray, pairwise: Ragged) -> np.ndarray:
    """Expected edit distances (H,) under a posterior, minus the least in the pool of the utterance."""
    expected = np.empty(len(posterior))
    for row in range(len(offsets) - 1):
        inside = slice(offsets[row], offsets[row + 1])
        own = posterior[inside]
        expected[inside] = pairwise[row].reshape(len(own), len(own)) @ own
    return expected - spread(np.minimum.reduceat(expected, offsets[:-1]), offsets)


def fit_on_top(ranked: Ranked, options: Options) -> Ranker:
    """Trees added to the log-linear scores, each fitted to the gradient of the expected edit distance."""
    kept, offsets = ranked.likely()
    assert ranked.pool.distance is not None
    distance = ranked.pool.distance[kept]

    def gradient(scores: np.ndarray, _: Any) -> tuple[np.ndarray, np.ndarray]:
        posterior = normalized_posteriors(scores, offsets)
        expected = spread(np.add.reduceat(posterior * distance, offsets[:-1]), offsets)
        return posterior * (distance - expected), posterior + 1e-4

    data = lightgbm.Dataset(ranked.features[kept], np.zeros(len(kept)), init_score=ranked.scores[kept])
    trees = lightgbm.train(ON_TOP | _common(options) | {"objective": gradient}, data, options.rounds)
    return lambda other: other.scores + trees.predict(other.features)


def fit_ranking(objective: str, ranked: Ranked, options: Options) -> Ranker:
    """Trees of one of LightGBM's ranking objectives, with the scale of their scores."""
    trees = _fit_trees(objective, ranked, options)
    unseen = np.empty(len(ranked.scores))
    for fold in np.unique(ranked.folds):
        others = _fit_trees(objective, ranked.take(np.flatnonzero(ranked.folds != fold)), options)
        inside = np.flatnonzero(ranked.folds == fold)
        kept, _ = Ragged(ranked.scores, ranked.pool.offsets).rows_of(inside)
        unseen[kept] = others.predict(ranked.features[kept])

    def loss(scale: float) -> float:
        chosen, _ = least_expected_distance(scale * unseen, ranked.pool.offsets, ranked.pairwise)
        return ranked.pool.mean_distance(chosen)

    best = min(SCALES, key=loss)
    return lambda other: best * trees.predict(other.features)


def _fit_trees(objective: str, ranked: Ranked, options: Options) -> Any:
    kept, offsets = ranked.likely()
    assert ranked.pool.distance is not None
    distance = ranked.pool.distance[kept]
    edits = distance - spread(np.minimum.reduceat(distance, offsets[:-1]), offsets)
    relevance = np.clip(RELEVANCES - 1 - edits, 0, None).astype(np.int64)
    data = lightgbm.Dataset(ranked.features[kept], relevance, group=np.diff(offsets))
    parameters = TREES | {"objective": objective, "lambdarank_truncation_level": 10}
    return lightgbm.train(parameters | _common(options), data, options.rounds)


def _common(options: Options) -> dict[str, Any]:
    return {"seed": options.seed, "num_threads": max(1, options.threads)}


def main() -> None:
    """Print nested and dev distances of each ranker."""
    options = parse_options(Options, "compare_rankers.py")
    if lightgbm is None:
        raise InputError("compare_rankers.py: LightGBM is not installed: pip install lightgbm")
    options.use_threads()
    dataset = options.open_dataset()
    members = group_by_member(options.find_fold_models())
    inputs = open_inputs(members, dataset, InputOptions(fit_limit=options.limit, seed=options.seed))
    oof, dev, rank = inputs.oof, inputs.dev, BLENDERS.get("rank")()
    folds = oof.outer_folds
    outer = {fold: rank_pool(oof, rank.fit(oof.take(np.flatnonzero(folds != fold)))) for fold in np.unique(folds)}
    recipe = rank.fit(oof)
    whole, of_dev = rank_pool(oof, recipe), rank_pool(dev, recipe)
    fits: dict[str, Callable[[Ranked, Options], Ranker]] = {
        "rank": lambda ranked, options: lambda other: other.scores,
        "trees on top": fit_on_top,
        "lambdarank": lambda ranked, options: fit_ranking("lambdarank", ranked, options),
        "rank_xendcg": lambda ranked, options: fit_ranking("rank_xendcg", ranked, options),
    }

    def distances(ranker: Ranker, ranked: Ranked, references: list[Any]) -> np.ndarray:
        hypotheses = decide(ranker(ranked), ranked.pool, ranked.pairwise, oof.split.classes)
        return edit_distances(hypotheses, references)

    nested: dict[str, np.ndarray] = {}
    on_dev: dict[str, np.ndarray] = {}
    speaker_of = dict(zip(dataset.train.ids, dataset.train.groups, strict=True))
    speakers = [speaker_of[utterance] for utterance in oof.split.ids]
    print(f"{len(oof)} utterances, {len(members)} members; nested and dev distance, and minus that of rank:")
    for name, fit in fits.items():
        start, nested[name] = time.process_time(), np.empty(len(oof))
        for fold, ranked in outer.items():
            inside = np.flatnonzero(folds == fold)
            ranker = fit(ranked.take(np.flatnonzero(folds != fold)), options)
            nested[name][inside] = distances(ranker, ranked.take(inside), oof.take(inside).references)
        on_dev[name] = distances(fit(whole, options), of_dev, dev.references)
        print(
            f"  {name}: nested {nested[name].mean():.3f}, {paired_bootstrap(nested[name], nested['rank'], speakers)}; "
            f"dev {on_dev[name].mean():.3f}, {paired_bootstrap(on_dev[name], on_dev['rank'], inputs.dev_groups)}; "
            f"{time.process_time() - start:.0f} CPU-seconds",
            flush=True,
        )


if __name__ == "__main__":
    command(main)
