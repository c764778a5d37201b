"""The edit distance against its textbook recursion, and its means."""

from __future__ import annotations

import functools

import Levenshtein
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folds.competition.alphabets import F22
from folds.competition.metric import edit_distances, mean_distance, words_of

_tokens = st.lists(st.integers(0, 46), max_size=8)
_classes = st.lists(st.integers(1, 40), max_size=30)


def _recursion(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return distance(len(a), len(b))


@given(pairs=st.lists(st.tuples(_tokens, _tokens), max_size=5))
@settings(deadline=None, max_examples=40)
def test_distances_are_the_recursions(pairs: list[tuple[list[int], list[int]]]):
    hypotheses, references = [a for a, _ in pairs], [b for _, b in pairs]
    distances = edit_distances(hypotheses, references)
    assert distances.dtype == np.int64
    assert distances.tolist() == [_recursion(tuple(a), tuple(b)) for a, b in pairs]
    assert edit_distances(references, hypotheses).tolist() == distances.tolist()


@given(pairs=st.lists(st.tuples(_classes, _classes), max_size=5))
@settings(deadline=None, max_examples=40)
def test_distances_of_classes_are_those_of_the_submissions_strings(pairs: list[tuple[list[int], list[int]]]):
    """The organisers compare strings of one character per phoneme, with python-Levenshtein."""
    strings = [(F22.to_string(a), F22.to_string(b)) for a, b in pairs]
    organisers = [Levenshtein.distance(a, b) for a, b in strings]
    assert edit_distances([a for a, _ in pairs], [b for _, b in pairs]).tolist() == organisers
    assert edit_distances([a for a, _ in strings], [b for _, b in strings]).tolist() == organisers


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A well- known man", ["a", "well", "known", "man"]),
        ("well-known, and well-", ["well-known", "and", "well-"]),
        ("one - two", ["one", "two"]),
        ("one---two", ["one-two"]),
        ("It's 'tis -'em 3.5 A,B.", ["it's'tis", "-'em", "ab"]),
        ("one--two", ["onetwo"]),
        ("yes -- no", ["yes", "-", "no"]),
        ("a\ttab", ["a", "tab"]),
        ("Größe, été", ["größe", "été"]),
    ],
)
def test_words_of_sentences_with_dashes_apostrophes_tabs_and_accents(text: str, words: list[str]):
    assert words_of(text) == words


def test_a_textbook_pair_and_mixed_kinds():
    assert edit_distances(["kitten"], ["sitting"]).tolist() == [3]
    assert edit_distances([np.array([1, 2], dtype=np.int16), (3,)], [[1], []]).tolist() == [1, 1]


def test_mean_over_utterances_not_batches():
    hypotheses, references = [[1], [1], [1, 2, 3]], [[1], [2], []]
    assert mean_distance(hypotheses, references) == pytest.approx(4 / 3)
    # Not 1.75, as by the course's loop over batches of 2, in which the short batch weighs as much as the other.


def test_unequal_numbers_and_none():
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        edit_distances([[1]], [[1], [2]])
    with pytest.raises(ValueError, match="of no utterances is undefined"):
        mean_distance([], [])
