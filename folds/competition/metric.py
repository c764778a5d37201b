"""Metrics: the mean edit (Levenshtein) distance between label sequences, and error rates over labels and words.

A submission of phonemes has one character per phoneme, so the distance between two class sequences equals the distance
between their strings. Distances are computed with python-Levenshtein, as the organisers do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import Levenshtein
import numpy as np

# One phoneme sequence: classes, or one character per phoneme.
Tokens: TypeAlias = Sequence[int] | np.ndarray | str


def edit_distances(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """Edit distance of each hypothesis to its reference, `(N,)` int64; insertion, deletion, substitution cost 1 each.

    Both are sequences of classes, or both are strings. Raises ValueError unless there are equally many of each.

    >>> edit_distances([[1, 2, 3], []], [[1, 3], [4]])
    array([1, 1])
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    pairs = zip(hypotheses, references, strict=True)
    return np.array([Levenshtein.distance(_as_text(a), _as_text(b)) for a, b in pairs], dtype=np.int64)


def mean_distance(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """The metric: mean edit distance over utterances. Raises ValueError when there are none.

    >>> mean_distance(["kitten", "flaw"], ["sitting", "lawn"])
    2.5
    """
    distances = edit_distances(hypotheses, references)
    if not len(distances):
        raise ValueError("the mean distance of no utterances is undefined")
    return float(distances.mean())


def error_rate(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Edit operations per label of the references, over all utterances: the phoneme (character) error rate.

    Raises ValueError for references without any label.

    >>> error_rate([[1, 2], [3]], [[1, 3], [3, 4]])
    0.5
    """
    return _rate(edit_distances(hypotheses, references), sum(map(len, references)))


def word_distances(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Edit distance in words of each sentence to its reference, `(N,)` int64, both split by `words_of`.

    >>> word_distances(["i see the cat", "no"], ["I see a cat.", "oh no"])
    array([1, 1])
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    pairs = zip(hypotheses, references, strict=True)
    return np.array([Levenshtein.distance(words_of(a), words_of(b)) for a, b in pairs], dtype=np.int64)


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Edit operations per word of the references, over all sentences. Raises ValueError for references without words.

    >>> word_error_rate(["i see the cat", "no"], ["I see a cat.", "oh no"])
    0.3333333333333333
    """
    return _rate(word_distances(hypotheses, references), sum(len(words_of(text)) for text in references))


def words_of(text: str) -> list[str]:
    """The words of a sentence as word error rates compare them: lower-case letters, hyphens and apostrophes.

    This follows the organisers of Brain-to-Text '25 (`remove_punctuation` in nejm-brain-to-text), except that letters
    of other scripts are kept: a hyphen at the end of a word is dropped (of "--" between spaces, one hyphen remains as a
    word), and anything that begins with an apostrophe is joined to the word before it.

    >>> words_of("Don't you know Ann-Marie? Get 'em!")
    ["don't", 'you', 'know', 'ann-marie', "get'em"]
    """
    spaced = "".join(" " if character.isspace() else character for character in text.lower())
    kept = "".join(character for character in spaced if character.isalpha() or character in "-' ")
    return kept.replace("- ", " ").replace("--", "").replace(" '", "'").split()


def _rate(distances: np.ndarray, units: int) -> float:
    if not units:
        raise ValueError("the error rate of empty references is undefined")
    return float(distances.sum()) / units


def _as_text(tokens: Tokens) -> str:
    # Comparing strings is several times faster than comparing lists; each class is used as a code point.
    return tokens if isinstance(tokens, str) else "".join(map(chr, tokens))


@dataclass(frozen=True)
class Metric:
    """A metric of a set of utterances, from label sequences or, with `words`, from sentences; lower is better."""

    name: str
    """Its name in tables, such as "phoneme error rate"."""
    of: Callable[[Sequence[Any], Sequence[Any]], float]
    """Computes the value from hypotheses and references."""
    words: bool = False
    """Whether it compares sentences, in words."""
    percent: bool = True
    """Whether it is a fraction, printed in %."""

    def text(self, value: float) -> str:
        """The value with its name.

        >>> PHONEME_ERROR_RATE.text(0.1013), MEAN_DISTANCE.text(5.2438)
        ('phoneme error rate 10.13 %', 'mean distance 5.244')
        """
        return f"{self.name} {value:.2%}".replace("%", " %") if self.percent else f"{self.name} {value:.3f}"


MEAN_DISTANCE = Metric("mean distance", mean_distance, percent=False)
PHONEME_ERROR_RATE = Metric("phoneme error rate", error_rate)
WORD_ERROR_RATE = Metric("word error rate", word_error_rate, words=True)
