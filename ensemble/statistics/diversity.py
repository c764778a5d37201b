"""How much systems differ: distances between hypotheses, correlation of errors, and phonemes that only one has right.

An ensemble gains from members that err in different places; one that repeats another's errors only adds cost. The
correlation of errors is Pearson's, for two 0/1 variables (the phi coefficient); see Kuncheva & Whitaker, "Measures of
Diversity in Classifier Ensembles" (Machine Learning 51, 2003), eq. 10.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from folds.competition.metric import Tokens, edit_distances

COPY = 0.25
"""Two members are near copies if their distance is below this fraction of the median distance between members."""


def pairwise_distances(hypotheses: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """Edit distances between the hypotheses of all pairs of K systems for N utterances, (K, K, N) int64, symmetric."""
    texts = [["".join(map(chr, tokens)) for tokens in system] for system in hypotheses]
    distances = np.zeros((len(texts), len(texts), len(texts[0])), np.int64)
    for (i, ours), (j, theirs) in itertools.combinations(enumerate(texts), 2):
        distances[i, j] = distances[j, i] = edit_distances(ours, theirs)
    return distances


def mean_over_pairs(distances: np.ndarray) -> np.ndarray:
    """The mean of `pairwise_distances` over all pairs of K systems, (N,): their disagreement; zeros for one system."""
    systems = len(distances)
    return distances.sum(axis=(0, 1)) / max(systems * (systems - 1), 1)


def error_correlation(wrong: np.ndarray) -> np.ndarray:
    """Correlation of errors (K, K) of K systems on P reference phonemes, from `wrong` (K, P) bool.

    NaN for a system that recognises all phonemes, or none.
    """
    centred = wrong - wrong.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T
    scale = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / np.outer(scale, scale)


def only_right(wrong: np.ndarray) -> np.ndarray:
    """How many phonemes only that system has right, for each system, (K,) int64; `wrong` is (K, P) bool."""
    alone = wrong.sum(axis=0) == len(wrong) - 1
    return (~wrong & alone).sum(axis=1)


def near_copies(distances: np.ndarray, levels: np.ndarray) -> dict[int, int]:
    """Map from each member that nearly copies a better one to the index of that one; on ties, the earlier is better.

    `distances` (K, K) are between members, `levels` (K,) are their mean distances to the references.
    """
    if len(levels) < 3:
        return {}  # the median distance is that of the single pair
    limit = COPY * np.median(distances[np.triu_indices(len(levels), 1)])
    copies = {}
    for member in range(len(levels)):
        better = [k for k in range(len(levels)) if (levels[k], k) < (levels[member], member)]
        near = [k for k in better if distances[member, k] < limit]
        if near:
            copies[member] = min(near, key=lambda k: (distances[member, k], k))
    return copies
