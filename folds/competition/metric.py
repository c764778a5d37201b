"""The competition's metric: the edit (Levenshtein) distance between two phoneme sequences, averaged over utterances.

A submission has one character per phoneme, so the distance of two sequences of classes is that of their strings.
Distances are computed by python-Levenshtein, as the organisers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import Levenshtein
import numpy as np

# One phoneme sequence: classes, or one character per phoneme.
Tokens: TypeAlias = Sequence[int] | np.ndarray | str


def edit_distances(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """Edit distance of each hypothesis to its reference, `(N,)` int64; insertion, deletion, substitution cost 1 each.

    Both sides are sequences of classes, or both are strings. Raises ValueError for unequal numbers of them.

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


def batch_mean_distance(distances: np.ndarray, batch: int) -> float:
    """Mean of batch means, as the course's loop reports it: a short last batch weighs as much as a full one.

    Only for comparison with published numbers; it is not the metric.
    """
    return float(np.mean([np.mean(distances[start : start + batch]) for start in range(0, len(distances), batch)]))


def _as_text(tokens: Tokens) -> str:
    # Strings compare several times faster than lists; a class serves as its own code point.
    return tokens if isinstance(tokens, str) else "".join(map(chr, tokens))
