"""Learned ranking: consensus against exhaustive search, minimum-risk training, features, and both blenders."""

from __future__ import annotations

import itertools
from dataclasses import replace

import Levenshtein
import numpy as np
import pytest
import simulated_members as simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.blenders.base import BLENDERS
from ensemble.blenders.rank import _start_weights
from ensemble.hypotheses.expected_distance import compute_pairwise_distances, least_expected_distance
from ensemble.hypotheses.scoring import Mixture, combined_scores, normalized_posteriors
from ensemble.mbr import mbr
from ensemble.ranking.consensus import consensus
from ensemble.ranking.features import Features, ranking_features
from ensemble.ranking.minimum_risk import fit_minimum_risk
from folds.store.ragged import Ragged

LABELS = range(1, 4)


def risk_of(sequence, pool, posterior):
    return sum(p * Levenshtein.distance(list(sequence), other) for p, other in zip(posterior, pool, strict=True))


def consensus_of(pool, posterior, start):
    tokens = Ragged.of(pool, np.int16)
    return consensus(tokens, np.array([0, len(pool)]), posterior, np.array([start]), classes=19)[0].tolist()


@given(st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_consensus_is_between_the_best_of_the_pool_and_the_best_of_all_sequences(pool, seed):
    posterior = np.random.default_rng(seed).dirichlet(np.ones(len(pool)))
    decision, expected = mbr(pool, np.log(posterior))
    sequence = consensus_of(pool, posterior, pool.index(decision))
    every = itertools.chain.from_iterable(itertools.product(LABELS, repeat=length) for length in range(5))
    least = min(risk_of(other, pool, posterior) for other in every)
    # Hypotheses of a posterior below 1e-5 are left out, which moves an expectation by less than 1e-3.
    assert least - 1e-3 <= risk_of(sequence, pool, posterior) <= expected + 1e-3


def test_consensus_may_be_outside_the_pool():
    # Every hypothesis has an error of its own, where the two others agree.
    pool = [[5, 2, 3, 4], [1, 5, 3, 4], [1, 2, 5, 4]]
    assert consensus_of(pool, np.full(3, 1 / 3), start=0) == [1, 2, 3, 4]


def test_a_null_with_as_much_mass_as_a_token_wins():
    assert consensus_of([[1, 2], [1, 3, 2]], np.array([0.5, 0.5]), start=0) == [1, 2]
    assert consensus_of([[1, 2], [1, 3, 2]], np.array([0.4, 0.6]), start=0) == [1, 3, 2]


@pytest.mark.parametrize("masses", [[0.25, 0.125, 0.125], [0.3, 0.1, 0.2]])
def test_a_tie_keeps_the_current_symbol_whatever_the_rounding(masses):
    # In float64, 0.1 + 0.2 is above 0.3. The last hypothesis decides the second symbol, and only that.
    pool = [[3, 5], [2, 6], [2, 6], [8, 6]]
    assert consensus_of(pool, np.array([*masses, 0.05]), start=0) == [3, 6]


def test_consensus_may_be_longer_than_every_hypothesis():
    pool = [[1, 2, 7, 3, 4, 8], [6, 1, 2, 3, 4, 8], [6, 1, 2, 7, 3, 4]]
    assert consensus_of(pool, np.full(3, 1 / 3), start=0) == [6, 1, 2, 7, 3, 4, 8]
    # Each lacks two of the tokens.
    pool = [[token for token in range(1, 19) if token not in lacking] for lacking in ((3, 6), (9, 12), (15, 18))]
    assert consensus_of(pool, np.full(3, 1 / 3), start=0) == list(range(1, 19))


@given(
    st.lists(st.lists(st.sampled_from([0, 7, 8]), min_size=3, max_size=3), min_size=2, max_size=6),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_where_hypotheses_can_be_aligned_in_one_way_each_symbol_has_the_most_mass(choices, seed):
    """They differ in three places, of which each has a token or none (0); two tokens between them are always equal."""

    def sequence(a, b, c):
        return [token for token in (a, 1, 2, b, 3, 4, c) if token]

    posterior = np.random.default_rng(seed).dirichlet(np.ones(len(choices)))
    most = [int(np.bincount(place, posterior).argmax()) for place in zip(*choices, strict=True)]
    for start in range(len(choices)):
        assert consensus_of([sequence(*chosen) for chosen in choices], posterior, start) == sequence(*most)


def test_many_improbable_hypotheses_count_together():
    assert consensus_of([[7], *[[1]] * 400], np.array([0.2, *[0.002] * 400]), start=0) == [1]


def test_several_utterances_are_independent():
    pools = [[[1, 2], [1, 3], [1, 3]], [[], [4]], [[2, 2, 2]]]
    tokens = Ragged.of([hypothesis for pool in pools for hypothesis in pool], np.int16)
    posterior = np.array([0.2, 0.4, 0.4, 0.3, 0.7, 1.0])
    sequences = consensus(tokens, np.array([0, 3, 5, 6]), posterior, np.array([0, 3, 5]), classes=5)
    assert [sequences[row].tolist() for row in range(3)] == [[1, 3], [4], [2, 2, 2]]


def random_pools(seed=0, utterances=60, size=8, features=3):
    """Features (H, F), of which the first tells the distance with noise, distances (H,) and offsets."""
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 6, utterances * size)
    values = rng.normal(size=(len(distance), features)).astype(np.float32)
    values[:, 0] -= distance
    return values, distance, np.arange(utterances + 1) * size


def test_minimum_risk_lowers_the_expected_distance_and_finds_the_informative_feature():
    values, distance, offsets = random_pools()
    start = np.array([0.1, 0.0, 0.0])
    weights = fit_minimum_risk(values, distance, offsets, start, penalty=0.01)

    def expected(w):
        return np.add.reduceat(normalized_posteriors(values @ w, offsets) * distance, offsets[:-1]).mean()

    assert expected(weights) < expected(start) - 0.5
    assert weights[0] > 5 * np.abs(weights[1:]).max()
    # A stationary point of the penalised loss: no small change of one weight lowers the expected distance.
    for column, step in itertools.product(range(3), (-0.3, 0.3)):
        changed = weights.copy()
        changed[column] += step
        assert expected(changed) > expected(weights) - 0.02


def test_minimum_risk_with_a_large_penalty_keeps_the_start():
    values, distance, offsets = random_pools()
    start = np.array([0.3, -0.2, 0.0])
    assert fit_minimum_risk(values, distance, offsets, start, penalty=1e9) == pytest.approx(start, abs=1e-5)


def test_minimum_risk_gives_the_same_weights_twice_and_in_other_units():
    values, distance, offsets = random_pools()
    start = np.array([0.5, 0.0, 0.0])
    weights = fit_minimum_risk(values, distance, offsets, start)
    assert fit_minimum_risk(values, distance, offsets, start).tobytes() == weights.tobytes()
    units = np.array([1.0, 4.0, 0.5], np.float32)
    assert fit_minimum_risk(values * units, distance, offsets, start / units) * units == pytest.approx(
        weights, abs=2e-3
    )


def test_a_feature_that_never_differs_within_a_pool_keeps_its_weight():
    values, distance, offsets = random_pools()
    values[:, 2] = np.repeat(np.arange(60), 8)
    assert fit_minimum_risk(values, distance, offsets, np.array([0.5, 0.0, 0.7]))[2] == pytest.approx(0.7)


def test_what_minimum_risk_adds_to_a_whole_pool_changes_nothing():
    values, distance, offsets = random_pools()
    start = np.array([0.5, 0.0, 0.0])
    shifts = np.repeat(np.random.default_rng(1).normal(size=(60, 3)), 8, axis=0).astype(np.float32)
    expected = fit_minimum_risk(values, distance, offsets, start)
    assert fit_minimum_risk(values + 3 * shifts, distance, offsets, start) == pytest.approx(expected, abs=2e-3)
    harder = distance + np.repeat(np.arange(60), 8)
    assert fit_minimum_risk(values, harder, offsets, start) == pytest.approx(expected, abs=2e-3)


def test_the_penalty_of_minimum_risk_is_a_prior_so_it_weighs_half_as_much_for_twice_the_utterances():
    values, distance, offsets = random_pools()
    start = np.array([0.3, 0.0, 0.0])
    once, twice = np.tile(values, (2, 1)), np.tile(distance, 2)
    of_both = np.concatenate([offsets, offsets[-1] + offsets[1:]])
    fitted = [
        fit_minimum_risk(values, distance, offsets, start, penalty=7.5),
        fit_minimum_risk(once, twice, of_both, start, penalty=15.0),
        fit_minimum_risk(once, twice, of_both, start, penalty=7.5),
    ]
    assert fitted[1] == pytest.approx(fitted[0], abs=2e-3)
    assert fitted[2][0] > fitted[0][0] + 0.02


def test_minimum_risk_starts_from_a_posterior_as_sharp_as_it_may_be():
    values, distance, offsets = random_pools()
    start = np.array([2000.0, 0.0, 0.0])
    assert np.isfinite(fit_minimum_risk(values, distance, offsets, start)).all()


@pytest.fixture(scope="module")
def references():
    return simulated.references(24, length=10)


@pytest.fixture(scope="module")
def oof(references):
    members = {name: [simulated.log_probs(references, error=0.25, seed=seed)] for seed, name in enumerate("ab")}
    return simulated.inputs(members, references)


def test_features_do_not_depend_on_the_number_of_fold_models(oof):
    """Two equal fold models of a member are worth one: out of fold there is one, on dev there are several."""
    pool = oof.pool()
    joint = Mixture(pool, [0, 1], "geometric")(np.array([0.5, 0.5]))
    twice = replace(pool, ctc=pool.ctc[:, [0, 0, 1]])
    once = ranking_features(pool, joint, [0, 1], oof.names, oof.split.classes)
    again = ranking_features(twice, joint, [0, 0, 1], oof.names, oof.split.classes)
    assert again.names == once.names
    assert again.values == pytest.approx(once.values)


def test_features_weighed_by_rescorings_settings_differ_from_its_scores_by_a_constant_per_pool(oof):
    prior, attention = np.random.default_rng(0).normal(size=(2, len(oof.pool().lm)))
    pool = replace(oof.pool(), prior=prior, attention=attention)
    weights = {"lm_weight": 0.4, "length_bonus": 0.9, "prior_weight": 0.3, "attention_weight": 0.2}
    features = ranking_features(pool, pool.ctc[:, 0], [0, 1], oof.names, oof.split.classes)
    found = features.weigh({"joint": 1.0, "lm": 0.4, "length": 0.9, "prior": 0.3, "attention": 0.2})
    np.testing.assert_allclose(features.values @ _start_weights(weights, features.names), found)
    expected = pool.ctc[:, 0] + 0.4 * pool.lm + 0.9 * pool.lengths + 0.3 * prior + 0.2 * attention
    np.testing.assert_allclose(combined_scores(pool.ctc[:, 0], pool, weights), expected)
    for first, last in itertools.pairwise(pool.offsets):
        assert np.ptp((found - expected)[first:last]) < 1e-4


def test_label_counts_add_up_to_the_length(oof):
    pool = oof.pool()
    features = ranking_features(pool, pool.ctc[:, 0], [0, 1], oof.names, oof.split.classes)
    labels = [index for index, name in enumerate(features.names) if name.startswith("label")]
    assert len(labels) == oof.split.classes - 1
    assert features.values[:, labels].sum(axis=1) == pytest.approx(pool.lengths)


def test_weights_of_other_features_are_left_out():
    features = Features(("a", "b"), np.array([[1, 2], [3, 4]], np.float32))
    assert features.weigh({"b": 0.5, "member that is not used": 9.0}).tolist() == [1.0, 2.0]


def test_rank_decides_at_least_as_well_as_the_pool_under_its_own_posterior(oof):
    recipe = BLENDERS.get("rank")().fit(oof)
    members = [oof.names.index(name) for name in recipe.weights]
    pool = oof.pool(members)
    joint = Mixture(pool, oof.member_of_column(members), recipe.settings["mean"])(recipe.array(oof.names))
    features = ranking_features(pool, joint, oof.member_of_column(members), oof.names, oof.split.classes)
    scores = features.weigh(recipe.settings["ranker"])
    _, risks = least_expected_distance(scores, pool.offsets, compute_pairwise_distances(pool))
    posterior = normalized_posteriors(scores, pool.offsets)
    for row, decision in enumerate(BLENDERS.get("rank")().predict(oof, recipe)):
        span = slice(pool.offsets[row], pool.offsets[row + 1])
        assert risk_of(decision, pool.hypotheses(row), posterior[span]) <= risks[row] + 1e-3


@pytest.mark.parametrize("name", ["rank", "rover_mbr"])
def test_same_seed_same_recipe_and_bytes(name, oof):
    blender = BLENDERS.get(name)()
    assert blender.fit(oof, seed=3) == blender.fit(oof, seed=3)


def test_rover_mbr_of_one_member_is_its_own_decision(oof, references):
    alone = simulated.inputs({"a": [oof.split.predictions[0].load()]}, references)
    blender = BLENDERS.get("rover_mbr")()
    recipe = blender.fit(alone)
    twice = simulated.inputs({"a": [oof.split.predictions[0].load()] * 2}, references)
    assert recipe.weights == {"a": 1.0}
    assert blender.predict(twice, recipe) == blender.predict(alone, recipe)


def test_consensus_goes_on_to_the_other_tokens_of_a_gap():
    assert consensus_of([[1, 2], [1, 3, 4, 5, 6, 2]], np.array([0.3, 0.7]), start=0) == [1, 3, 4, 5, 6, 2]
    # Most agree on the first token of the gap, and fewer on each second one than on none.
    assert consensus_of([[1, 2], [1, 3, 4, 2], [1, 3, 5, 2]], np.array([0.4, 0.3, 0.3]), start=0) == [1, 3, 2]
