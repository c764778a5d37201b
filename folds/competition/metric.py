"""The competition's metric: the edit (Levenshtein) distance between two phoneme strings, averaged over utterances.

One phoneme is one character of a submission, so distances between class sequences are distances between strings of the
same characters. This module knows neither files nor alphabets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein


def _string(tokens: Sequence[int] | np.ndarray | str) -> str:
    # Characters compare several times faster than lists; the class itself serves as the code point.
    return tokens if isinstance(tokens, str) else "".join(map(chr, tokens))


def edit_distances(
    hypotheses: Sequence[Sequence[int] | str], references: Sequence[Sequence[int] | str]
) -> np.ndarray:
    """Edit distance of each hypothesis to its reference, `(N,)` int64; insertion, deletion, substitution cost 1 each.

    Both sides are class sequences, or both are strings.

    >>> edit_distances([[1, 2, 3], []], [[1, 3], [4]])
    array([1, 1])
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    pairs = zip(hypotheses, references, strict=True)
    return np.array([Levenshtein.distance(_string(h), _string(r)) for h, r in pairs], dtype=np.int64)


def mean_distance(
    hypotheses: Sequence[Sequence[int] | str], references: Sequence[Sequence[int] | str]
) -> float:
    """The metric: mean edit distance over utterances. An empty set has none, so it is a `ValueError`."""
    distances = edit_distances(hypotheses, references)
    if not len(distances):
        raise ValueError("the mean distance of no utterances is undefined")
    return float(distances.mean())


def batch_mean_distance(distances: np.ndarray, batch: int) -> float:
    """Mean of batch means, as the course's loop reports it: a short last batch weighs as much as a full one.

    Only for comparison with published numbers; it is not the metric.
    """
    return float(np.mean([np.mean(distances[start : start + batch]) for start in range(0, len(distances), batch)]))
