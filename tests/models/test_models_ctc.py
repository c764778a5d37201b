"""CTC scores against the sum over all alignments, written out; greedy collapse on worked examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ctc import greedy, log_likelihood, packed_log_likelihood
from registry.errors import InputError


def collapse(path) -> tuple[int, ...]:
    return tuple(c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c))


def brute_force(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """log P of every label sequence with a probability above zero: the sum over all paths that collapse to it."""
    frames, classes = log_probs.shape
    scores: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(classes), repeat=frames):
        tokens, score = collapse(path), sum(float(log_probs[t, c]) for t, c in enumerate(path))
        scores[tokens] = np.logaddexp(scores.get(tokens, -np.inf), score)
    return {tokens: score for tokens, score in scores.items() if score > -np.inf}


@st.composite
def log_prob_rows(draw, frames=5, classes=4):
    """Normalised `(T, C)` float32 log-probabilities, some of them -inf, from flat to peaky."""
    shape = draw(st.integers(1, frames)), draw(st.integers(1, classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = random.normal(size=shape) * draw(st.sampled_from([0.0, 1.0, 5.0, 30.0]))
    if draw(st.booleans()):
        impossible = random.random(shape) < 0.4
        impossible[np.arange(shape[0]), random.integers(0, shape[1], shape[0])] = False
        logits[impossible] = -np.inf
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(log_prob_rows())
def test_log_likelihood_is_the_sum_over_all_alignments(rows):
    expected = brute_force(rows)
    scores = log_likelihood(rows, list(expected))
    np.testing.assert_allclose(scores, list(expected.values()), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(log_prob_rows(frames=3, classes=3))
def test_sequences_without_an_alignment_have_probability_zero(rows):
    expected = brute_force(rows)
    every = [tokens for n in range(5) for tokens in itertools.product(range(1, rows.shape[1]), repeat=n)]
    scores = dict(zip(every, log_likelihood(rows, every), strict=True))
    for tokens in every:
        assert (scores[tokens] == -np.inf) == (tokens not in expected)
    np.testing.assert_allclose(np.logaddexp.reduce(list(scores.values())), 0.0, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    log_prob_rows(frames=8, classes=3), st.lists(st.lists(st.integers(1, 2), max_size=7), max_size=12), st.booleans()
)
def test_labels_shared_with_the_hypothesis_before_change_nothing(rows, hypotheses, ordered):
    """Bit by bit; most of these hypotheses have repeats, and some do not fit into the frames."""
    hypotheses = [[min(token, rows.shape[1] - 1) for token in h] for h in hypotheses if rows.shape[1] > 1]
    hypotheses = sorted(hypotheses) if ordered else hypotheses
    together = log_likelihood(rows, hypotheses)
    alone = [log_likelihood(rows, [hypothesis])[0] for hypothesis in hypotheses]
    assert together.tolist() == alone


def test_a_pool_of_near_neighbours_has_the_likelihoods_of_its_hypotheses_alone():
    random = np.random.default_rng(1)
    rows = random.normal(size=(120, 12)) * 3
    rows -= np.logaddexp.reduce(rows, axis=1, keepdims=True)
    best = random.integers(1, 12, 45)
    hypotheses = []
    for _ in range(60):
        changed = best.copy()
        changed[random.integers(0, 45, 3)] = random.integers(1, 12, 3)
        hypotheses.append(np.delete(changed, random.integers(0, 45, random.integers(0, 3))).tolist())
    hypotheses = [*sorted(hypotheses), [], [1] * 61]
    alone = [log_likelihood(rows, [hypothesis])[0] for hypothesis in hypotheses]
    assert log_likelihood(rows, hypotheses).tolist() == alone and alone[-1] == -np.inf
    offsets = np.cumsum([0, *map(len, hypotheses)])
    assert packed_log_likelihood(rows, np.concatenate(hypotheses).astype(np.int16), offsets).tolist() == alone


def test_a_hopeless_hypothesis_is_scored_beyond_the_range_of_float64():
    # Label 1 has a probability of e^-20 in each of 300 frames, and the hypothesis needs 150 of them: e^-3000.
    rows = np.full((300, 2), -20.0)
    rows[:, 0] = np.log1p(-np.exp(-20.0))
    score = log_likelihood(rows, [[1] * 150])[0]
    # 150 labels and 149 blanks between them leave one frame, a blank in one of 151 places (a label costs e^-20 more).
    assert score == pytest.approx(-20.0 * 150 + np.log(151), abs=0.01)


@pytest.mark.parametrize("label", np.linspace(-21, -17, 41))
def test_likelihoods_are_exact_where_float64_is_about_to_underflow(label):
    """35 equal labels in 70 frames need all frames but one, which is a blank in one of 36 places, or a label."""
    rows = np.tile([np.log1p(-np.exp(label)), label], (70, 1))
    expected = 35 * (rows[0, 0] + label) + np.log(36 + 35 * np.exp(label - rows[0, 0]))
    assert log_likelihood(rows, [[1] * 35])[0] == pytest.approx(expected, abs=1e-9)


def test_the_linear_recursion_agrees_with_the_logarithmic_one_on_long_utterances():
    from models.ctc import _build_trie, _forward_linear, _forward_log

    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 20)) * 3
    rows -= rows.max(axis=1, keepdims=True)
    labels = random.integers(1, 20, 60)
    trie = _build_trie(labels, np.array([0, len(labels)]))
    assert _forward_linear(np.exp(rows), *trie[:4])[trie[4]] == pytest.approx(_forward_log(rows, labels), abs=1e-9)


def test_greedy_merges_repeats_and_drops_blanks():
    paths = [[0, 1, 1, 0, 1, 2, 2, 0], [2, 2, 2, 2, 0, 0, 0, 0], [0] * 8]
    rows = np.log(np.eye(3, dtype=np.float32)[paths] + 1e-6)
    assert greedy(rows, np.array([8, 8, 8])) == [[1, 1, 2], [2], []]
    assert greedy(rows, np.array([2, 4, 1])) == [[1], [2], []]


def test_greedy_takes_one_frame_one_class_and_minus_infinity():
    assert greedy(np.zeros((1, 1, 1), np.float32), np.array([1])) == [[]]
    assert greedy(np.array([[[-np.inf, 0.0]]], np.float32), np.array([1])) == [[1]]
    assert greedy(np.zeros((0, 0, 3), np.float32), np.zeros(0, int)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.__setitem__((1, 2, 0), np.nan), "utterance 1, frame 2: NaN"),
        (lambda x: x.__setitem__((0, 1, 1), np.inf), r"utterance 0, frame 1: \+inf"),
        (lambda x: x.__setitem__((1, 0), -np.inf), "utterance 1, frame 0: no class"),
    ],
)
def test_greedy_names_the_utterance_and_frame_of_bad_values(change, message):
    rows = np.full((2, 4, 3), -1.0, np.float32)
    change(rows)
    with pytest.raises(InputError, match=message):
        greedy(rows, np.array([4, 4]))


@pytest.mark.parametrize("lengths", [[5, 4], [0, 4], [-1, 4], [4], [4.0, 4.0]])
def test_greedy_refuses_lengths_that_do_not_fit(lengths):
    with pytest.raises(InputError, match="length"):
        greedy(np.zeros((2, 4, 3), np.float32), np.array(lengths))


@pytest.mark.parametrize(
    ("rows", "hypotheses", "message"),
    [
        (np.zeros((0, 3)), [[1]], "expected floats of shape"),
        (np.zeros((3, 3), int), [[1]], "expected floats"),
        (np.array([[0.0, np.nan]]), [[1]], "NaN"),
        (np.array([[0.0, np.inf]]), [[1]], r"\+inf"),
        (np.zeros((3, 3)), [[1], [1, 3]], "hypothesis 1 has token 3; expected 1 to 2"),
        (np.zeros((3, 3)), [[0]], "hypothesis 0 has token 0"),
    ],
)
def test_log_likelihood_refuses_what_it_cannot_score(rows, hypotheses, message):
    with pytest.raises(InputError, match=message):
        log_likelihood(rows, hypotheses)
