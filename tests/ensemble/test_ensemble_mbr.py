"""Minimum Bayes risk: equal to exhaustive search on small pools; edit distances equal to python-Levenshtein's."""

from __future__ import annotations

import Levenshtein
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.hypotheses.edit_distance import pairwise, to_references
from ensemble.hypotheses.expected_distance import compute_pairwise_distances, least_expected_distance
from ensemble.hypotheses.pool import build_pool
from ensemble.mbr import mbr
from folds.store.ragged import Ragged, offsets_of

TOKENS = st.lists(st.integers(0, 3), max_size=7)


def pool_of(hypotheses):
    """The pool of one utterance; only its tokens matter here."""
    count, tokens = len(hypotheses), Ragged.of(hypotheses, np.int16)
    return build_pool(np.array([0, count]), tokens, np.zeros((count, 1)), np.zeros(count), None)


@given(st.lists(TOKENS, min_size=1, max_size=6, unique_by=tuple), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=80)
def test_equals_exhaustive_search_in_any_order(pool, random):
    scores = [random.uniform(-5, 0) for _ in pool]
    posterior = np.exp(scores) / np.exp(scores).sum()
    risks = [sum(p * Levenshtein.distance(h, other) for p, other in zip(posterior, pool, strict=True)) for h in pool]
    tokens, expected = mbr(pool, scores)
    assert expected == pytest.approx(min(risks))
    assert risks[pool.index(tokens)] == pytest.approx(min(risks))
    order = random.sample(range(len(pool)), len(pool))
    assert mbr([pool[i] for i in order], [scores[i] for i in order])[0] == tokens


def test_may_differ_from_the_most_probable():
    # The most probable hypothesis agrees with no other; two that agree with each other outweigh it.
    pool = [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 9]]
    assert mbr(pool, np.log([0.4, 0.35, 0.25]))[0] == [5, 6, 7, 8]


def test_bad_pools_are_refused():
    with pytest.raises(ValueError, match="0 hypotheses"):
        mbr([], [])
    with pytest.raises(ValueError, match="1 hypotheses with 2"):
        mbr([[1]], [0, 0])
    for scores in ([np.nan, 0.0], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match="expected numbers, at least one of them finite"):
            mbr([[1], [2]], scores)
        with pytest.raises(ValueError, match="expected distances: scores are NaN or infinite"):
            offsets, pairs = np.array([0, 1, 3]), Ragged(np.ones(5, np.uint8), np.array([0, 1, 5]))
            least_expected_distance(np.array([0.0, *scores]), offsets, pairs)


@given(st.lists(st.lists(st.integers(0, 5), max_size=90), min_size=2, max_size=4))
@settings(deadline=None, max_examples=80)
def test_pairwise_equals_the_reference(rows):
    expected = [[Levenshtein.distance(a, b) for b in rows] for a in rows]
    assert pairwise(rows).tolist() == expected


def test_hypotheses_longer_than_a_machine_word():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 40, 150).tolist(), rng.integers(0, 40, 130).tolist()
    assert pairwise([a, b])[0, 1] == Levenshtein.distance(a, b)


@given(st.sampled_from([0, 1, 62, 63, 64, 65, 127, 128, 130]), st.sampled_from([0, 1, 64]), st.data())
@settings(deadline=None, max_examples=80)
def test_common_beginnings_and_ends_of_any_length(beginning, end, data):
    """They are skipped, and what remains may begin or end within any word of the bit masks, or at its edge."""
    middles = data.draw(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=2, max_size=3))
    rows = [[3, 4] * (beginning // 2) + [3] * (beginning % 2) + middle + [5] * end for middle in middles]
    assert pairwise(rows).tolist() == [[Levenshtein.distance(a, b) for b in rows] for a in rows]


def test_distances_within_a_pool_are_capped_where_they_are_stored_in_a_byte():
    distances = compute_pairwise_distances(pool_of([[], [1] * 254, [1] * 300]))
    assert distances[0].tolist() == [0, 254, 255, 254, 0, 46, 255, 46, 0]


def test_of_equal_risks_the_more_probable_wins_and_of_equal_posteriors_the_first():
    pool = pool_of([[number] for number in range(1, 61)])
    pairs = compute_pairwise_distances(pool)
    assert least_expected_distance(np.zeros(60), pool.offsets, pairs)[0].tolist() == [0]
    pool = pool_of([[1], [1, 2], [1, 2, 3]])
    # The last two are both expected to be off by 0.6.
    chosen, risks = least_expected_distance(np.log([0.1, 0.4, 0.5]), pool.offsets, compute_pairwise_distances(pool))
    assert risks == pytest.approx([0.6]) and chosen.tolist() == [2]


def test_many_improbable_hypotheses_count_together():
    pool = pool_of([[1], [2], *([2, number] for number in range(3, 2003))])
    scores = np.log([0.3, 0.2, *[0.5 / 2000] * 2000])
    chosen, risks = least_expected_distance(scores, pool.offsets, compute_pairwise_distances(pool))
    assert chosen.tolist() == [1] and risks == pytest.approx([0.3 + 0.5])


def test_tokens_may_be_any_integers():
    rng = np.random.default_rng(0)
    rows = [rng.choice([-7, 0, 127, 128, 255, 40_000, 10**12], rng.integers(0, 90)).tolist() for _ in range(5)]
    assert pairwise(rows).tolist() == [[Levenshtein.distance(a, b) for b in rows] for a in rows]
    assert mbr([[10**12, 300], [10**12, 301], [300]], [0.0, -1.0, -2.0])[0] == [10**12, 300]


def test_distances_to_references_of_a_large_alphabet():
    rng = np.random.default_rng(1)
    hypotheses, references = ([rng.integers(0, 3000, 80).tolist() for _ in range(3)] for _ in range(2))
    hypotheses[0] = [*references[0][:40], 2999, *references[0][41:]]
    packed = [Ragged.of(sequences, np.int16) for sequences in (hypotheses, references)]
    expected = [Levenshtein.distance(a, b) for a, b in zip(hypotheses, references, strict=True)]
    assert to_references(packed[0], np.arange(3), packed[1]).tolist() == expected


def test_distances_to_references():
    hypotheses, references = Ragged.of([[1, 2], [2], [3, 3, 3]], np.int16), Ragged.of([[1, 2], [3]], np.int16)
    assert to_references(hypotheses, np.array([0, 0, 1]), references).tolist() == [0, 1, 2]


POOLS = st.lists(
    st.lists(st.lists(st.integers(1, 3), max_size=7), min_size=1, max_size=6, unique_by=tuple), min_size=1, max_size=3
)


@given(POOLS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_pools_have_the_decisions_of_single_utterances(pools, seed):
    """What blends call, against the plain function."""
    pools = [sorted(pool) for pool in pools]
    offsets, tokens = offsets_of(map(len, pools)), Ragged.of([h for pool in pools for h in pool], np.int16)
    scores = np.random.default_rng(seed).uniform(-5, 0, len(tokens))
    pool = build_pool(offsets, tokens, np.zeros((len(tokens), 1)), np.zeros(len(tokens)), None)
    chosen, risks = least_expected_distance(scores, offsets, compute_pairwise_distances(pool))
    for row, own in enumerate(pools):
        decision, expected = mbr(own, scores[offsets[row] : offsets[row + 1]])
        assert tokens[chosen[row]].tolist() == decision and risks[row] == pytest.approx(expected, abs=1e-6)
