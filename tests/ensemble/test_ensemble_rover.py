"""ROVER: networks and votes equal worked examples of SCTK's alignment costs and formulas."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import simulated_members as simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.hypotheses.member_decisions import _mean_confidences, best_of_member
from ensemble.hypotheses.scoring import best_per_utterance
from ensemble.rover import NULL, align, as_log_probs, rover, vote

HYPOTHESES = st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=5)


def test_network_aligns_by_edit_distance_not_by_position():
    assert align([[1, 2, 3, 4], [2, 3, 4]]).arcs.tolist() == [[1, NULL], [2, 2], [3, 3], [4, 4]]


def test_network_inserts_a_slot_with_nulls_for_earlier_systems():
    assert align([[1, 3], [1, 3], [1, 2, 3]]).arcs.tolist() == [[1, 1, 1], [NULL, NULL, 2], [3, 3, 3]]


def test_token_goes_to_a_slot_with_a_null_rather_than_a_new_one():
    # SCTK: another token against a slot that holds a null costs 1, a new slot costs 3 (and skipping the null .001).
    assert align([[1, 3], [1, 2, 3], [1, 4, 3]]).arcs.tolist() == [[1, 1, 1], [NULL, 2, 4], [3, 3, 3]]


def test_skipping_a_null_slot_is_nearly_free():
    assert align([[1, 2], [1], [1]]).arcs.tolist() == [[1, 1, 1], [2, NULL, NULL]]


def slot_winner(arcs, confidences, **options):
    """The winner of a one-slot network given as letters ('@' is the null)."""
    network = align([[0]] * len(arcs))
    numbers = [NULL if a == "@" else ord(a) for a in arcs]
    network.arcs[0] = numbers
    network.confidences[0] = confidences
    winners, scores = vote(network, **options)
    return "@" if winners[0] == NULL else chr(winners[0]), scores[0]


# Three arcs: a with .9, b with .4 and b with .3 (for a null the confidence is null_confidence).
@pytest.mark.parametrize(
    ("method", "alpha", "expected"),
    [
        ("meth1", 1.0, {"a": 1 / 3, "b": 2 / 3}),
        ("meth1", 0.5, {"a": 0.5 / 3 + 0.5 * 0.9, "b": 0.5 * 2 / 3 + 0.5 * 0.7 / 2}),
        ("maxconf", 0.5, {"a": 0.5 / 3 + 0.5 * 0.9, "b": 0.5 * 2 / 3 + 0.5 * 0.4}),
        ("avgconf", 0.5, {"a": 0.5 / 3 + 0.5 * 0.9 / 1.6, "b": 0.5 * 2 / 3 + 0.5 * 0.7 / 1.6}),
    ],
)
def test_votes_equal_the_formula(method, alpha, expected):
    winner, scores = slot_winner("abb", [0.9, 0.4, 0.3], method=method, alpha=alpha)
    assert scores == pytest.approx([expected["a"], expected["b"], expected["b"]])
    assert winner == max(expected, key=expected.get)


def test_null_confidence_enters_the_vote_and_the_sum():
    winner, scores = slot_winner("a@@", [0.9, 0, 0], method="avgconf", alpha=0.2, null_confidence=0.7)
    assert scores == pytest.approx([0.2 / 3 + 0.8 * 0.9 / 2.3, *[0.2 * 2 / 3 + 0.8 * 1.4 / 2.3] * 2])
    assert winner == "@"
    assert slot_winner("a@@", [0.9, 0, 0], method="maxconf", alpha=0.2, null_confidence=0.1)[0] == "a"


def test_a_tie_goes_to_the_earliest_system_and_may_delete():
    assert slot_winner("@a", [0, 1])[0] == "@"
    assert slot_winner("a@", [1, 0])[0] == "a"
    assert rover([[1, 2], [1]]) == [1, 2]
    assert rover([[1], [1, 2]]) == [1]


def test_weights_are_repetitions():
    hypotheses, confidences = [[1, 2, 3], [1, 3], [1, 2, 2]], [[0.5, 0.9, 0.7], [0.8, 0.6], [0.4, 0.3, 0.9]]
    twice = [0, 1, 1, 2]
    repeated = align([hypotheses[system] for system in twice], [confidences[system] for system in twice])
    weighted = align(hypotheses, confidences)
    for method in ("meth1", "maxconf", "avgconf"):
        winners, _ = vote(repeated, method, 0.4, 0.3)
        weighted_winners, _ = vote(weighted, method, 0.4, 0.3, weights=[1, 2, 1])
        assert winners.tolist() == weighted_winners.tolist()


def test_weight_zero_takes_no_part():
    network = align([[1, 2], [3, 4], [3, 4]])
    assert vote(network, weights=[1, 0, 0])[0].tolist() == [1, 2]


@pytest.mark.parametrize("method", ["meth1", "maxconf", "avgconf"])
def test_scores_are_those_without_the_systems_of_weight_zero(method):
    hypotheses, confidences = [[1, 2], [1, 3], [1, 2]], [[0.5, 0.4], [0.3, 0.6], [0.9, 0.8]]
    _, with_zero = vote(align(hypotheses, confidences), method, 0.3, 0.2, weights=[1, 1, 0])
    _, without = vote(align(hypotheses[:2], confidences[:2]), method, 0.3, 0.2)
    np.testing.assert_allclose(with_zero[:, :2], without)


@pytest.mark.parametrize("method", ["meth1", "maxconf", "avgconf"])
def test_without_any_confidence_the_earliest_system_with_weight_wins(method):
    network = align([[1], [2], [3]], [[0.0], [0.0], [0.0]])
    assert vote(network, method, 0.0)[0].tolist() == [1]
    winners, scores = vote(network, method, 0.0, weights=[0, 1, 1])
    assert winners.tolist() == [2] and scores.tolist() == [[0.0, 0.0, 0.0]]


def test_rounding_breaks_no_tie():
    # In float64, 0.1 + 0.2 is above 0.3.
    assert vote(align([[1], [2], [2]]), weights=[0.3, 0.1, 0.2])[0].tolist() == [1]


def test_a_system_of_weight_zero_hides_no_token_of_another():
    network = align([[1, 2], [1, 3], [1, 2]])
    winners, scores = vote(network, weights=[2, 1, 0])
    matrix = np.exp(as_log_probs(network.arcs, scores, 4))
    np.testing.assert_allclose(matrix[[0, 2]], [[0, 1, 0, 0], [0, 0, 2 / 3, 1 / 3]], atol=1e-6)
    assert winners.tolist() == [1, 2]


def test_rover_takes_any_hashable_and_confidences():
    rows = [["AA", "B"], ["AA", "D"], ["AA", "D"]]
    assert rover(rows) == ["AA", "D"]
    assert rover(rows, [[1, 0.9], [1, 0.1], [1, 0.1]], method="maxconf", alpha=0.1) == ["AA", "B"]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="no hypotheses"):
        rover([])
    with pytest.raises(ValueError, match="meth1, maxconf, avgconf"):
        rover([[1]], method="oracle")
    with pytest.raises(ValueError, match="confidence"):
        rover([[1, 2]], [[1.0]])


@given(HYPOTHESES)
@settings(deadline=None, max_examples=60)
def test_every_column_of_the_network_holds_its_hypothesis(rows):
    network = align(rows)
    for system, row in enumerate(rows):
        assert [t for t in network.arcs[:, system].tolist() if t != NULL] == row
    assert not (network.arcs == NULL).all(axis=1).any()


@given(HYPOTHESES)
@settings(deadline=None, max_examples=60)
def test_a_system_that_outvotes_all_others_wins(rows):
    assert rover([rows[0]] * (len(rows) + 1) + list(rows)) == rows[0]


def test_matrix_reads_back_as_the_vote():
    rows = [[1, 1, 2], [1, 2], [1, 1, 3]]
    network = align(rows)
    winners, scores = vote(network)
    matrix = as_log_probs(network.arcs, scores, 5)
    assert matrix.shape == (2 * len(winners) - 1, 5)
    np.testing.assert_allclose(np.exp(matrix).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(matrix[-1]), [0, 0, 2 / 3, 1 / 3, 0], atol=1e-6)
    path = matrix.argmax(axis=1)
    collapsed = [k for k, _ in itertools.groupby(path.tolist()) if k]
    assert collapsed == [w for w in winners if w != NULL] == [1, 1, 2]


def test_empty_network_is_one_blank_row():
    network = align([[], []])
    winners, scores = vote(network)
    assert winners.tolist() == []
    assert as_log_probs(network.arcs, scores, 3).argmax(axis=1).tolist() == [0]


def test_the_tokens_of_a_slot_without_any_confidence_are_equally_likely():
    network = align([[1, 2], [1, 3]], [[0.9, 0.0], [0.8, 0.0]])
    _, scores = vote(network, "avgconf", alpha=0.0)
    matrix = np.exp(as_log_probs(network.arcs, scores, 4))
    np.testing.assert_allclose(matrix[0], [0, 1, 0, 0])
    np.testing.assert_allclose(matrix[2], [0, 0, 0.5, 0.5])


def plain_align(rows):
    """Slots as {system: position}, by the recursion over SCTK's costs; on a tie align, then insert, then skip.

    Substitutions cost 4, insertions and deletions 3; skipping a slot that has a null is nearly free.
    """
    network = [{0: k} for k in range(len(rows[0]))]
    for system, row in enumerate(rows[1:], start=1):

        @functools.cache
        def best(i, j, system=system, row=tuple(row), network=tuple(network)):
            held = {rows[s][k] for s, k in network[i - 1].items()} if i else set()
            null, moves = i > 0 and len(network[i - 1]) < system, []
            if i and j:
                moves.append((best(i - 1, j - 1)[0] + (0 if row[j - 1] in held else 1 if null else 4), 0))
            if j:
                moves.append((best(i, j - 1)[0] + 3, 1))
            if i:
                moves.append((best(i - 1, j)[0] + (0.001 if null else 3), 2))
            return min(moves, default=(0.0, 0))

        merged, i, j = [], len(network), len(row)
        while i or j:
            move = best(i, j)[1]
            i, j = i - (move != 1), j - (move != 2)
            merged.append((network[i] if move != 1 else {}) | ({system: j} if move != 2 else {}))
        network = merged[::-1]
    return network


@pytest.mark.parametrize("seed", range(4))
def test_networks_are_those_of_the_plain_recursion(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        rows = [rng.integers(0, 4, rng.integers(1, 9)).tolist() for _ in range(rng.integers(2, 6))]
        own = [[(1 + 10 * s + k) / 100 for k in range(len(row))] for s, row in enumerate(rows)]
        network, slots = align(rows, own), plain_align(rows)
        arcs = [[row[slot[s]] if s in slot else NULL for s, row in enumerate(rows)] for slot in slots]
        held = [[row[slot[s]] if s in slot else 0.0 for s, row in enumerate(own)] for slot in slots]
        assert network.arcs.tolist() == arcs and network.confidences.tolist() == held


def test_scores_of_weights_are_those_of_repetitions():
    hypotheses, confidences = [[1, 2, 3], [1, 3], [1, 2, 2]], [[0.5, 0.9, 0.7], [0.8, 0.6], [0.4, 0.3, 0.9]]
    twice = [0, 1, 1, 2]
    repeated = align([hypotheses[system] for system in twice], [confidences[system] for system in twice])
    for method in ("meth1", "maxconf", "avgconf"):
        _, scores = vote(repeated, method, 0.4, 0.3)
        _, weighted = vote(align(hypotheses, confidences), method, 0.4, 0.3, weights=[1, 2, 1])
        np.testing.assert_allclose(weighted, scores[:, [0, 1, 3]])


def test_a_members_confidence_is_the_mean_of_its_networks_in_the_same_tokens():
    """0 for a network whose own hypothesis has another token or none there."""
    own = [([1, 2, 3], [0.8, 0.6, 0.9]), ([1, 4, 3], [0.4, 0.7, 0.5]), ([1, 3], [0.3, 1.0])]
    own = [(tokens, np.array(confidences)) for tokens, confidences in own]
    np.testing.assert_allclose(_mean_confidences([1, 2, 3], own), [0.5, 0.2, 0.8])


def test_two_equal_networks_find_what_one_does_with_the_language_model():
    references = simulated.references(12, length=10)
    network = simulated.log_probs(references, error=0.5)
    one, two = (simulated.inputs({"a": [network] * count}, references) for count in (1, 2))
    (tokens, confidences), (joint, mean) = best_of_member(one, 0), best_of_member(two, 0)
    assert [joint[row].tolist() for row in range(12)] == [tokens[row].tolist() for row in range(12)]
    np.testing.assert_allclose(mean.values, confidences.values)
    plain = one.pool().ctc.mean(axis=1)
    without = one.pool().tokens.take(best_per_utterance(plain, one.pool().offsets))
    assert without.values.tolist() != tokens.values.tolist()
