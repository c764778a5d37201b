"""Minimum Bayes risk: choose the hypothesis of a scored pool with the least expected edit distance.

Goel & Byrne, "Minimum Bayes-risk automatic speech recognition" (Computer Speech and Language 14(2), 2000). The most
probable hypothesis minimises the probability of any error, but the competition counts edits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.hypotheses.edit_distance import pairwise


def mbr(
    hypotheses: Sequence[Sequence[int]], log_posteriors: Sequence[float] | np.ndarray
) -> tuple[list[int], float]:
    """The hypothesis that minimises sum over h' of P(h') * d(h, h'), and that expected distance.

    `log_posteriors` (H,) need not be normalised. Ties go to the more probable hypothesis, then to the one whose tokens
    sort first, so the order of the pool does not matter. Raises ValueError for an empty pool, and for log-posteriors
    that are NaN or all minus infinity.

    >>> mbr([[1, 2], [1, 3], [1, 3, 4]], [0.0, 0.0, 0.0])
    ([1, 3], 0.6666666666666666)
    """
    if len(hypotheses) == 0 or len(hypotheses) != len(log_posteriors):
        raise ValueError(f"mbr: {len(hypotheses)} hypotheses with {len(log_posteriors)} log-posteriors")
    logs = np.asarray(log_posteriors, np.float64)
    if not np.isfinite(logs.max()):
        raise ValueError(f"mbr: log-posteriors {logs.tolist()}; expected numbers, at least one of them finite")
    posterior = np.exp(logs - logs.max())
    posterior /= posterior.sum()
    expected = pairwise(hypotheses) @ posterior
    order = [(round(float(expected[i]), 9), -float(posterior[i]), tuple(hypotheses[i])) for i in range(len(hypotheses))]
    best = min(range(len(hypotheses)), key=order.__getitem__)
    return list(hypotheses[best]), float(expected[best])
