"""Pools: proposals stored and joined, hypotheses scored by all members and cut; each against brute force."""

from __future__ import annotations

from dataclasses import replace

import Levenshtein
import numpy as np
import pytest
import simulated_members as simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.hypotheses import blend_inputs
from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.hypotheses.nbest import NBest, nbest_of, nbest_of_matrices
from ensemble.hypotheses.proposals import Proposals, find_hypotheses, join_proposals, sort_lists
from ensemble.hypotheses.scoring import MEANS, Mixture, best_per_utterance, keep_best, normalized_posteriors
from ensemble.rover import align, as_log_probs, vote
from folds.store.ragged import Ragged, offsets_of
from models.ctc import log_likelihood

HYPOTHESES = st.lists(st.lists(st.integers(1, 3), max_size=5), min_size=1, max_size=8, unique_by=tuple)
STRIDES = {"a": 4, "b": 2, "c": 4}


@pytest.fixture(scope="module")
def inputs():
    references = simulated.references(12, length=10)
    members = {name: [simulated.log_probs(references, STRIDES[name], 0.3, seed=i)] for i, name in enumerate(STRIDES)}
    return simulated.inputs(members, references, nbest_size=10, pool_size=12)


def nbest(lists, scores):
    """N-best lists with these scores; nothing here uses confidences."""
    tokens = Ragged.of([hypothesis for of_utterance in lists for hypothesis in of_utterance], np.int16)
    return NBest(offsets_of(map(len, lists)), tokens, scores, Ragged.of([[] for _ in lists], np.float32))


@st.composite
def models_proposals(draw):
    """Per model and utterance a list of hypotheses, and per hypothesis a score."""
    utterances = draw(st.integers(1, 3))
    lists = draw(st.lists(st.lists(HYPOTHESES, min_size=utterances, max_size=utterances), min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Two lists of one model, the others one each.
    weights = random.uniform(0.1, 1, max(1, len(lists) - 1)).tolist()
    return [(of_model, random.normal(size=sum(map(len, of_model)))) for of_model in lists], weights


@settings(deadline=None, max_examples=60)
@given(models_proposals(), st.integers(1, 12))
def test_joined_proposals_are_those_with_the_largest_weighted_sum_of_posteriors(models_and_weights, size):
    models, weights = models_and_weights
    lists = [nbest(*of_model) for of_model in models]
    # Stored and read again.
    proposals = [Proposals.of(lists[:2]), *(Proposals.of([of_model]) for of_model in lists[2:])]
    offsets, tokens = join_proposals(proposals, size, weights)
    for row in range(len(lists[0])):
        mass: dict[tuple[int, ...], float] = {}
        for of_model, weight in zip(lists, [weights[0], *weights][-len(lists) :], strict=True):
            scores = of_model.scores[of_model.offsets[row] : of_model.offsets[row + 1]]
            for hypothesis, posterior in zip(
                of_model.hypotheses(row), np.exp(scores) / np.exp(scores).sum(), strict=True
            ):
                mass[tuple(hypothesis)] = mass.get(tuple(hypothesis), 0.0) + weight * posterior
        joined = [tuple(tokens[h].tolist()) for h in range(offsets[row], offsets[row + 1])]
        assert joined == sorted(set(joined))
        # Of hypotheses with equal sums, any may be kept.
        kept = sorted((mass[hypothesis] for hypothesis in joined), reverse=True)
        np.testing.assert_allclose(kept, sorted(mass.values(), reverse=True)[:size], rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(HYPOTHESES, HYPOTHESES), min_size=1, max_size=3))
def test_hypotheses_are_found_in_another_pool(pools):
    pools = [(sorted(pool), sorted(other)) for pool, other in pools]
    offsets, others = (offsets_of([len(pair[side]) for pair in pools]) for side in (0, 1))
    tokens, other_tokens = (Ragged.of([h for pair in pools for h in pair[side]], np.int16) for side in (0, 1))
    expected = [
        start + other.index(hypothesis) if hypothesis in other else -1
        for (pool, other), start in zip(pools, others.tolist(), strict=False)
        for hypothesis in pool
    ]
    assert find_hypotheses(offsets, tokens, others, other_tokens).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(HYPOTHESES, min_size=1, max_size=3))
def test_lists_are_sorted_by_tokens(lists):
    packed = nbest(lists, np.zeros(sum(map(len, lists))))
    ordered = packed.tokens.take(sort_lists(packed))
    expected = [hypothesis for of_utterance in lists for hypothesis in sorted(of_utterance)]
    assert [ordered[index].tolist() for index in range(len(ordered))] == expected


def test_the_best_scores_are_kept_in_order_and_ties_go_to_the_first():
    kept, offsets = keep_best(np.array([1.0, 3.0, 3.0, 2.0, 5.0, 4.0]), np.array([0, 4, 6]), 2)
    assert kept.tolist() == [1, 2, 4, 5] and offsets.tolist() == [0, 2, 4]
    kept, offsets = keep_best(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 3, 4]), 2)
    assert kept.tolist() == [0, 1, 3] and offsets.tolist() == [0, 2, 3]


def test_of_the_best_scores_the_first_is_chosen():
    scores = np.array([1.0, 3.0, 3.0 + 1e-12, 2.0, 5.0, 5.0])
    assert best_per_utterance(scores, np.array([0, 4, 6])).tolist() == [1, 4]


def test_posteriors_sum_to_one_per_utterance_and_are_zero_where_nothing_is_possible():
    scores = np.array([-1000.0, -1000.0 + np.log(3), -np.inf, -np.inf, -np.inf, 0.0])
    posteriors = normalized_posteriors(scores, np.array([0, 3, 5, 6]))
    np.testing.assert_allclose(posteriors, [0.25, 0.75, 0, 0, 0, 1])


def test_every_hypothesis_has_every_model_s_exact_likelihood(inputs):
    pool = inputs.pool()
    for row in range(len(inputs)):
        span = slice(pool.offsets[row], pool.offsets[row + 1])
        assert pool.hypotheses(row) == sorted(pool.hypotheses(row)) and span.stop - span.start <= 12
        for column, index in enumerate(inputs.prediction_indices()):
            exact = log_likelihood(inputs.load(index)[row], pool.hypotheses(row))
            np.testing.assert_array_equal(pool.ctc[span, column], np.maximum(exact, exact.max() - 50.0))


def test_a_pool_holds_the_hypotheses_of_largest_posterior_under_all_models(inputs, monkeypatch):
    cut = inputs.pool()
    monkeypatch.setattr(blend_inputs, "JOINED_PER_POOLED", 1)  # so this pool holds all that were joined for the other
    joined = replace(inputs, pool_size=2 * inputs.pool_size, _cache=type(inputs._cache)()).pool()
    for row in range(len(inputs)):
        span = slice(joined.offsets[row], joined.offsets[row + 1])
        language = 0.45 * joined.lm[span] + 1.0 * joined.lengths[span]
        scores = np.concatenate([joined.ctc[span], joined.ctc[span] + language[:, None]], axis=1)
        posteriors = np.exp(scores - np.logaddexp.reduce(scores, axis=0)).sum(axis=1)
        best = np.argsort(-posteriors, kind="stable")[: inputs.pool_size]
        assert cut.hypotheses(row) == [joined.hypotheses(row)[index] for index in np.sort(best)]


def test_a_pool_of_fewer_members_equals_one_made_without_the_others(inputs):
    """Its scores are partly taken from the pool of all members."""
    inputs.pool()
    alone = replace(inputs, _cache=type(inputs._cache)())
    some, fresh = inputs.pool([0, 2]), alone.pool([0, 2])
    assert some.tokens.values.tolist() == fresh.tokens.values.tolist()
    np.testing.assert_array_equal(some.ctc, fresh.ctc)


def test_a_pool_of_other_lists_has_their_scores_and_those_of_each_utterances_language_model(inputs):
    view = inputs.take([1, 2])
    assert view.outer_folds.tolist() == [1, 0]
    pool = view.pool_of(nbest([[[2], [1, 1]], [[3, 1], [], [1]]], np.array([-1.0, -2.0, -3.0, -4.0, -5.0])))
    assert [pool.hypotheses(row) for row in (0, 1)] == [[[1, 1], [2]], [[], [1], [3, 1]]]
    assert pool.ctc.tolist() == [[-2.0], [-1.0], [-4.0], [-5.0], [-3.0]]
    own = [(fold, row, hypothesis) for row, fold in ((0, 1), (1, 0)) for hypothesis in pool.hypotheses(row)]
    scores = [inputs.split.language_models[fold].score(hypothesis) for fold, _, hypothesis in own]
    np.testing.assert_allclose(pool.lm, scores)
    references = view.references
    assert pool.distance.tolist() == [Levenshtein.distance(hypothesis, references[row]) for _, row, hypothesis in own]


def test_slots_are_searched_for_possible_hypotheses_only():
    network = align([[1, 2], [1, 3], [1]])
    matrix = as_log_probs(network.arcs, vote(network)[1], 5)
    lists = nbest_of_matrices([matrix], 50, "slots")
    assert sorted(map(tuple, lists.hypotheses(0))) == [(1,), (1, 2), (1, 3)]
    assert np.exp(lists.scores).sum() == pytest.approx(1, abs=1e-5)


def test_nbest_lists_in_arrays_are_those_of_each_utterance(inputs):
    log_probs = inputs.load(0)
    lists = nbest_of(log_probs, 5)
    for row in range(len(inputs)):
        alone = nbest_of(log_probs.take(np.array([row])), 5)
        assert lists.hypotheses(row) == alone.hypotheses(0) and lists.best[row] == alone.best[0]
        np.testing.assert_array_equal(lists.confidences[row], alone.confidences[0])
    reverse = lists.take(np.arange(len(inputs))[::-1])
    assert reverse.best == lists.best[::-1] and reverse.only_best().best == reverse.best


def test_a_mixture_is_exact_where_models_differ_by_thousands_of_nats(inputs):
    pool = inputs.pool([0, 1])
    far = replace(pool, ctc=pool.ctc - np.array([0.0, 3000.0]))
    mixture = Mixture(far, [0, 1], "arithmetic")
    np.testing.assert_allclose(mixture(np.array([0.0, 1.0])), far.ctc[:, 1], atol=1e-9)
    np.testing.assert_allclose(mixture(np.array([0.3, 0.7])), far.ctc[:, 0] + np.log(0.3), atol=1e-9)
    near = Mixture(pool, [0, 1], "arithmetic")(np.array([0.3, 0.7]))
    np.testing.assert_allclose(near, np.logaddexp(pool.ctc[:, 0] + np.log(0.3), pool.ctc[:, 1] + np.log(0.7)))


def test_many_networks_of_a_member_propose_no_more_than_one():
    """Otherwise a member of many folds would push the hypotheses of others out of the pool."""
    references = simulated.references(12, length=10)
    a, b = (simulated.log_probs(references, 4, 0.4, seed=seed) for seed in (1, 2))
    of_one, of_five = (simulated.inputs({"a": [a] * count, "b": [b]}, references, 10, 12) for count in (1, 5))
    assert of_five.shares([0, 1, 5]).tolist() == [0.5, 0.5, 1] and of_five.shares([0, 5]).tolist() == [1, 1]
    for row in range(12):
        assert of_one.pool().hypotheses(row) == of_five.pool().hypotheses(row)


@pytest.fixture(scope="module")
def three_members():
    references = simulated.references(12, length=10)
    members = {name: [simulated.log_probs(references, error=0.3, seed=i)] for i, name in enumerate("abc")}
    return simulated.inputs(members, references, nbest_size=10, pool_size=12)


def test_distances_within_the_pools_of_a_view_are_those_of_its_utterances(three_members):
    view = three_members.take([7, 2])
    pairs = view.pairwise_distances()
    for row in range(2):
        own = view.pool().hypotheses(row)
        assert pairs[row].tolist() == [Levenshtein.distance(a, b) for a in own for b in own]


def test_a_members_weight_is_shared_by_its_fold_models(three_members):
    """A second network of one does not weigh more against the language model."""
    pool = three_members.pool([0, 1])
    twice, weights = replace(pool, ctc=pool.ctc[:, [0, 0, 1]]), np.array([0.3, 0.7])
    for mean in MEANS:
        np.testing.assert_allclose(Mixture(twice, [0, 0, 1], mean)(weights), Mixture(pool, [0, 1], mean)(weights))


def test_a_model_that_finds_no_hypothesis_possible_prefers_none():
    """One of a large stride, of a short utterance; of others, the impossible are 50 below the least likely one."""
    ctc = np.array([[0.0, -np.inf], [-100.0, -np.inf], [-3.0, -np.inf], [-5.0, -7.0]])
    floored = floor_likelihoods(ctc, np.array([0, 2, 4]))
    assert floored.tolist() == [[0, -50], [-50, -50], [-3, -57], [-5, -7]]
    assert floor_likelihoods(np.full((2, 2), -np.inf), np.array([0, 2])).tolist() == [[0, 0], [0, 0]]


def test_a_model_that_finds_no_hypothesis_possible_leaves_the_others_differences(three_members):
    pool = three_members.pool([0, 1])
    others = pool.ctc[:, 0]
    floored = floor_likelihoods(np.stack([others, np.full(len(others), -np.inf)], axis=1), pool.offsets)
    best = np.repeat(np.maximum.reduceat(others, pool.offsets[:-1]), np.diff(pool.offsets))
    close = np.flatnonzero(others > best - 10)
    for mean, share in (("arithmetic", 1.0), ("geometric", 0.5)):
        mixed = Mixture(replace(pool, ctc=floored), [0, 1], mean)(np.array([0.5, 0.5]))
        difference = (mixed - share * others)[close]
        by_utterance = np.split(difference, np.searchsorted(close, pool.offsets[1:-1]))
        assert all(np.ptp(values) < 1e-9 for values in by_utterance)


def test_the_pool_of_a_view_has_all_scores_of_its_utterances(three_members):
    pool = three_members.pool()
    count = len(pool.lm)
    named = {name: 10_000.0 * number + np.arange(count) for number, name in enumerate(("lm", "attention", "prior"))}
    pool = replace(pool, **named, lm_grid={"lm_weight": (0.5,)})
    rows, view = [7, 2], pool.take([7, 2])
    kept = np.concatenate([np.arange(pool.offsets[row], pool.offsets[row + 1]) for row in rows])
    for name, values in named.items():
        assert getattr(view, name).tolist() == values[kept].tolist()
    assert view.distance.tolist() == pool.distance[kept].tolist() and view.ctc.tolist() == pool.ctc[kept].tolist()
    assert [view.hypotheses(row) for row in (0, 1)] == [pool.hypotheses(row) for row in rows]
    assert view.lm_grid == {"lm_weight": (0.5,)}


def test_a_pool_of_several_members_has_hypotheses_that_none_of_them_proposes():
    """The start of one member's hypothesis with the end of another's."""
    references = simulated.references(12, length=10)
    members = {name: [simulated.log_probs(references, error=0.4, seed=i)] for i, name in enumerate("ab")}
    inputs = simulated.inputs(members, references, nbest_size=3, pool_size=40)
    new = 0
    for row in range(len(inputs)):
        proposed = [*inputs.pool([0]).hypotheses(row), *inputs.pool([1]).hypotheses(row)]
        new += sum(hypothesis not in proposed for hypothesis in inputs.pool().hypotheses(row))
    assert new > 0
