"""Forced alignment against the search over all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ctc import log_likelihood
from models.ctc_alignment import align
from registry.errors import InputError


def random_log_probs(frames: int, classes: int, seed: int) -> np.ndarray:
    probs = np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), frames)
    return np.log(probs + 1e-9)


def collapse(path: tuple[int, ...]) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != 0]


def score_of(log_probs: np.ndarray, tokens: list[int], spans: np.ndarray) -> float:
    path = np.zeros(len(log_probs), np.int64)
    for token, (start, end) in zip(tokens, spans, strict=True):
        path[start:end] = token
    assert collapse(tuple(path.tolist())) == tokens
    return float(log_probs[np.arange(len(path)), path].sum())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(2, 4), st.lists(st.integers(1, 3), max_size=4), st.integers(0, 2**32 - 1)
)
def test_the_alignment_is_the_best_of_all_paths(frames, classes, tokens, seed):
    tokens = [1 + (token - 1) % (classes - 1) for token in tokens]
    log_probs = random_log_probs(frames, classes, seed)
    paths = [path for path in itertools.product(range(classes), repeat=frames) if collapse(path) == tokens]
    spans, score = align(log_probs, tokens)
    assert spans.shape == (len(tokens), 2)
    if not paths:
        assert score == -np.inf and (spans == -1).all()
        return
    best = max(log_probs[np.arange(frames), list(path)].sum() for path in paths)
    assert score == pytest.approx(best)
    assert score_of(log_probs, tokens, spans) == pytest.approx(best)


def test_a_long_alignment_is_a_path_and_no_more_likely_than_all_together():
    rng = np.random.default_rng(3)
    log_probs, tokens = random_log_probs(1000, 41, 4), rng.integers(1, 41, 150).tolist()
    spans, score = align(log_probs.astype(np.float16), tokens)
    # Float16 log-probabilities, as they are stored: their sum in double precision is compared.
    assert score_of(log_probs.astype(np.float16).astype(np.float64), tokens, spans) == pytest.approx(score)
    assert score < log_likelihood(log_probs, [tokens])[0]


def test_equal_neighbours_have_a_blank_between_them():
    log_probs = np.log(np.full((3, 2), 0.5))
    spans, score = align(log_probs, [1, 1])
    assert spans.tolist() == [[0, 1], [2, 3]] and score == pytest.approx(3 * np.log(0.5))


def test_impossible_frames_are_avoided():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 0.1, 0.9]])
    spans, score = align(log_probs, [2, 1])
    assert spans.tolist() == [[0, 1], [2, 3]] and score == pytest.approx(np.log(0.05))
    assert align(log_probs, [1, 2, 1])[1] == -np.inf


@pytest.mark.parametrize(
    ("log_probs", "tokens", "message"),
    [
        (np.zeros((2, 3)), [3], "token 3; expected 1 to 2"),
        (np.zeros((2, 3)), [0], "token 0; expected 1 to 2"),
        (np.full((2, 3), np.nan), [1], "frame 0: NaN"),
        (np.zeros((0, 3)), [1], "T above 0"),
        (np.zeros(3), [1], r"expected floats of shape \(T, C\)"),
    ],
)
def test_bad_input(log_probs, tokens, message):
    with pytest.raises(InputError, match=message):
        align(log_probs, tokens)
