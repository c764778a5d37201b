"""Greedy selection with replacement, and the paired bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.fitting.member_weights import greedy_selection, refine
from ensemble.statistics.blend_tables import verdict
from folds.competition.bootstrap import bootstrap, describe_resampled, paired_bootstrap, resampled_means


def towards(target):
    """A loss with its least value where the weights equal `target`."""
    return lambda counts: float(np.square(counts / counts.sum() - target).sum())


def test_reaches_the_weights_that_minimise_the_loss():
    selection = greedy_selection(towards([0.5, 0.25, 0.25, 0.0]), 4, rounds=12)
    assert selection.weights.tolist() == [0.5, 0.25, 0.25, 0.0]
    assert selection.loss == pytest.approx(0)


def test_a_start_makes_reachable_what_single_steps_do_not_reach():
    """Three together are good, one is fair, two are worse than one: a vote."""

    def vote(counts):
        return {1: 1.0, 2: 2.0, 3: 0.5}[int(np.count_nonzero(counts))] + 0.1 * counts.argmax()

    assert greedy_selection(vote, 3, patience=3).counts.tolist() == [1, 0, 0]
    selection = greedy_selection(vote, 3, patience=3, start=np.array([1, 1, 1]))
    assert selection.counts.tolist() == [1, 1, 1] and selection.loss == 0.5


def test_refined_weights_are_better_sum_to_one_and_drop_what_does_not_help():
    target = np.array([0.7, 0.3, 0.0, 0.0])
    seen = {}

    def loss(weights):
        seen[tuple(weights)] = float(np.square(weights - target).sum())
        return seen[tuple(weights)]

    weights, lowest = refine(loss, np.array([0.5, 0.25, 0.25, 0.0]))
    assert all(sum(tried) == pytest.approx(1) and tried[3] == 0 for tried in seen)
    assert lowest == seen[tuple(weights)] == min(seen.values())
    assert weights[2] == 0 and weights == pytest.approx(target, abs=0.03)
    # The best weights already, and a single member, are left as they are.
    assert refine(loss, target)[0].tolist() == target.tolist()
    assert refine(loss, np.array([0.0, 1.0, 0.0, 0.0]))[0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_keeps_the_best_point_of_the_trajectory():
    # One member alone is best; the search continues past it, and the best point is kept.
    selection = greedy_selection(lambda counts: float((counts > 0).sum()) + 0.1 * (counts.sum() % 3), 3, rounds=6)
    losses = [loss for _, loss in selection.trajectory]
    assert selection.loss == min(losses)
    assert selection.counts.sum() == losses.index(min(losses)) + 1


def test_a_tie_prefers_members_already_used():
    selection = greedy_selection(lambda counts: 1.0, 5, seed=3)
    assert (selection.counts > 0).sum() == 1
    assert len({member for member, _ in selection.trajectory}) == 1


def test_a_tie_prefers_a_member_that_is_used_whatever_the_seed_prefers():
    for member in range(5):
        start = np.eye(5, dtype=int)[member]
        assert greedy_selection(lambda counts: 1.0, 5, rounds=1, start=start).trajectory[0][0] == member


def test_the_search_ends_after_so_many_rounds_without_a_new_best():
    # The counts are (1, 0), (1, 1), (2, 1), the worse (2, 2), then (3, 2), which is exact.
    loss = towards([0.6, 0.4])
    assert len(greedy_selection(loss, 2, patience=1).trajectory) == 4
    selection = greedy_selection(loss, 2, patience=2)
    assert selection.counts.tolist() == [3, 2] and len(selection.trajectory) == 5 + 2


def test_same_seed_same_weights():
    rng = np.random.default_rng(1)
    target = rng.dirichlet(np.ones(6))
    runs = [greedy_selection(towards(target), 6, seed=7) for _ in range(2)]
    assert runs[0].counts.tolist() == runs[1].counts.tolist()
    assert runs[0].trajectory == runs[1].trajectory


def test_budget_bounds_the_distinct_members():
    selection = greedy_selection(towards([0.4, 0.3, 0.3]), 3, parameters=[5, 5, 5], max_params=10)
    assert (selection.counts > 0).sum() == 2
    twins = {"parameters": [5, 5, 5], "max_params": 10, "same_networks": [0, 0, 2]}
    assert (greedy_selection(towards([0.4, 0.3, 0.3]), 3, **twins).counts > 0).all()
    with pytest.raises(ValueError, match="no member has 4 parameters or fewer"):
        greedy_selection(towards([1.0]), 1, parameters=[5], max_params=4)


def test_interval_of_a_difference():
    rng = np.random.default_rng(0)
    hard = rng.poisson(10, 400)
    ours, theirs = hard + rng.poisson(1, 400), hard + rng.poisson(2, 400)
    interval = paired_bootstrap(ours, theirs)
    assert interval.mean == pytest.approx((ours - theirs).mean())
    deviation = (ours - theirs).std() / 20
    assert interval.low == pytest.approx(interval.mean - 1.96 * deviation, abs=0.02)
    assert interval.high == pytest.approx(interval.mean + 1.96 * deviation, abs=0.02)
    assert interval.certain
    assert paired_bootstrap(ours, theirs) == interval


def test_speakers_are_resampled_whole():
    """The interval is that of the speakers' means, where all have equally many utterances."""
    rng = np.random.default_rng(0)
    of_speaker = rng.normal(0, 1, 50)
    values = np.repeat(of_speaker, 20) + rng.normal(0, 0.5, 1000)
    speakers = [f"speaker {number}" for number in np.repeat(np.arange(50), 20)]
    interval = bootstrap(values, speakers)
    deviation = values.reshape(50, 20).mean(axis=1).std() / np.sqrt(50)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(interval.mean - 1.96 * deviation, abs=0.02)
    assert interval.high == pytest.approx(interval.mean + 1.96 * deviation, abs=0.02)
    over_utterances = bootstrap(values)
    assert interval.high - interval.low > 3 * (over_utterances.high - over_utterances.low)


def test_speakers_of_one_utterance_each_are_utterances():
    values = np.random.default_rng(0).poisson(5, 200)
    assert bootstrap(values, list(range(200))) == bootstrap(values)


def test_speakers_of_unequal_size_count_by_their_utterances():
    """Every resample of a constant per utterance has that mean, however many utterances its speakers have."""
    interval = bootstrap(np.full(6, 2.0), ["a", "b", "b", "b", "b", "c"])
    assert (interval.low, interval.mean, interval.high) == (2, 2, 2)
    values = np.array([0.0, 1.0, 1.0, 1.0])
    of_two = bootstrap(values, ["a", "b", "b", "b"])
    factor = np.sqrt(2) * 12.7062 / 1.95996  # Student's t with one degree of freedom; means are 0, 0.75 and 1
    assert (of_two.low, of_two.high) == pytest.approx((0.75 - factor * 0.75, 0.75 + factor * 0.25), rel=1e-4)


@pytest.mark.parametrize(
    ("groups", "described"),
    [
        (None, "utterances (too narrow, since the data name no speakers)"),
        (["a", "a"], "utterances (too narrow, since there is only one speaker)"),
        (["a", "b"], "2 speakers, too few for reliable intervals"),
        (list("abcdefghij"), "10 speakers"),
    ],
)
def test_what_is_resampled_is_named(groups, described):
    assert describe_resampled(groups) == described
    assert describe_resampled(groups, "day") == described.replace("speaker", "day")
    if groups and len(set(groups)) == 1:
        assert bootstrap(np.array([1, 2]), groups) == bootstrap(np.array([1, 2]))


def test_a_regression_is_worded_as_one():
    ours, theirs = np.arange(30) % 7, np.arange(30) % 5
    assert verdict(paired_bootstrap(theirs + 1, theirs)) == "significantly worse than"
    assert verdict(paired_bootstrap(theirs, theirs + 1)) == "significantly better than"
    assert verdict(paired_bootstrap(ours, ours)) == "not significantly different from"


def test_no_difference_is_not_called_certain():
    rng = np.random.default_rng(0)
    a, b = rng.poisson(5, 300), rng.poisson(5, 300)
    assert not paired_bootstrap(a, b).certain
    assert bootstrap(np.ones(5)).low == 1


def test_intervals_over_few_speakers_have_the_width_of_students_t():
    """Of 25 normal means: the exact interval is 2.064 standard errors to either side."""
    means = np.random.default_rng(1).normal(size=25)
    interval = bootstrap(np.repeat(means, 4), np.repeat(np.arange(25), 4).tolist(), samples=20_000)
    error = means.std(ddof=1) / 5
    assert interval.mean == pytest.approx(means.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(2.064 * error, rel=0.03)


def test_intervals_over_five_speakers_cover_the_true_mean_as_often_as_they_say():
    rng, speakers = np.random.default_rng(2), np.repeat(np.arange(5), 3).tolist()
    covered = 0
    for _ in range(500):
        values = np.repeat(rng.normal(size=5), 3) + 0.3 * rng.normal(size=15)
        interval = bootstrap(values, speakers, samples=1000)
        covered += interval.low <= 0 <= interval.high
    assert 0.92 <= covered / 500 <= 0.98  # 0.83 without the correction


def test_no_two_resamples_are_alike_however_many_utterances_there_are():
    """They are drawn in slices, which must not repeat one another."""
    means = resampled_means(np.random.default_rng(0).normal(size=4000), samples=600)
    assert len(set(means.tolist())) == 600


def test_a_group_of_no_size_is_refused():
    with pytest.raises(ValueError, match="sizes of a group sum to 0"):
        bootstrap(np.array([1, 0, 2]), list("abc"), sizes=np.array([0, 3, 0]))


def test_an_error_rate_is_per_unit():
    """With two words in every reference, it is half of the mean; a longer reference counts by its words."""
    errors = np.random.default_rng(0).poisson(1, 50)
    halves = bootstrap(errors / 2)
    rate = bootstrap(errors, sizes=np.full(50, 2))
    assert (rate.low, rate.mean, rate.high) == pytest.approx((halves.low, halves.mean, halves.high))
    assert bootstrap(np.array([1, 2]), sizes=np.array([1, 9])).mean == pytest.approx(0.3)


def test_unequal_vectors_are_refused():
    with pytest.raises(ValueError):
        paired_bootstrap(np.array([]), np.array([]))


def test_speakers_weigh_by_their_utterances():
    means = resampled_means(np.array([0.0, 1, 1, 1]), list("abbb"))
    assert sorted(set(means.tolist())) == [0, 0.75, 1]
    assert np.mean(means == 0.75) == pytest.approx(0.5, abs=0.03)
