"""The mean of several models' frame posteriors, at a common frame rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from folds.store.log_probs import LogProbs


def mean_probabilities(predictions: Iterable[LogProbs], count: int, offsets: np.ndarray) -> np.ndarray:
    """Mean probabilities (sum of T', C) float32 of `count` models' predictions at the frame rate of `offsets` (N + 1,).

    `predictions` may be a generator, so that one model's values are in memory at a time.
    """
    mean: np.ndarray = np.zeros(1, np.float32)
    for log_probs in predictions:
        values = log_probs.values
        if not np.array_equal(log_probs.offsets, offsets):
            values = values[resampled_rows(log_probs.offsets, offsets)]
        mean = mean + np.exp(values.astype(np.float32)) / count
    return mean


def resampled_rows(offsets: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each target frame the source frame whose time it falls in; both are given by their offsets (N + 1,).

    >>> resampled_rows(np.array([0, 2]), np.array([0, 4])).tolist()
    [0, 0, 1, 1]
    """
    lengths, target_lengths = np.diff(offsets), np.diff(target)
    within = np.arange(target[-1]) - np.repeat(target[:-1], target_lengths)
    ratio = np.repeat(lengths / np.maximum(target_lengths, 1), target_lengths)
    source = np.minimum(((within + 0.5) * ratio).astype(np.int64), np.repeat(lengths, target_lengths) - 1)
    return source + np.repeat(offsets[:-1], target_lengths)
