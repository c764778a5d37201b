"""Paired bootstrap over utterances: a confidence interval of the difference between two systems.

Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004). Both systems
are measured on the same resampled utterances, so an utterance that is hard for both cancels out. The intervals do not
cover another training run of the same models: the random seed is a source of variance of its own. Nor do they account
for the correlation between utterances of one speaker: over new speakers, the interval of a level (not of a difference)
is nearly twice as wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean over utterances and its central confidence interval of the given level."""

    mean: float
    low: float
    high: float
    level: float = 0.95

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired_bootstrap(
    ours: np.ndarray, theirs: np.ndarray, samples: int = 5000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of mean(ours - theirs), both `(N,)` edit distances of the same utterances; negative if ours is better.

    >>> paired_bootstrap(np.array([1, 2, 3]), np.array([2, 3, 4]))
    Interval(mean=-1.0, low=-1.0, high=-1.0, level=0.95)
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape or len(ours) == 0:
        shapes = f"{ours.shape} and {theirs.shape}"
        raise ValueError(f"paired_bootstrap: expected two non-empty vectors of equal length, got shapes {shapes}")
    return bootstrap(ours - theirs, samples, seed, level)


def bootstrap(values: np.ndarray, samples: int = 5000, seed: int = 0, level: float = 0.95) -> Interval:
    """Interval of the mean of `values` `(N,)` over resampled utterances."""
    values = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    # In slices, so that the drawn indices take a few MB for any number of utterances.
    width = max(1, 2_000_000 // len(values))
    for start in range(0, samples, width):
        rows = min(width, samples - start)
        means[start : start + rows] = values[generator.integers(0, len(values), (rows, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level)
