"""The mean of several models' frame posteriors, at a common frame rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from folds.store.log_probs import LogProbs

LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True, eq=False)
class FrameRate:
    """The input frames that the output frames of N utterances cover.

    Output frame t covers `stride` input frames, starting at `stride * t - delay`: a model whose features are delayed by
    `delay` frames emits everything later.
    """

    offsets: np.ndarray
    """Utterance u has the output frames `offsets[u]:offsets[u + 1]`, (N + 1,)."""
    stride: int
    delay: int = 0

    @staticmethod
    def of(log_probs: LogProbs, delay: int = 0) -> FrameRate:
        """The frame rate of a model's predictions."""
        return FrameRate(log_probs.offsets, log_probs.stride, delay)


def mean_probabilities(predictions: Iterable[tuple[LogProbs, int]], count: int, target: FrameRate) -> np.ndarray:
    """Mean probabilities (sum of T', C) float32 of `count` models' predictions, at the frame rate `target`.

    Each model's predictions are paired with its delay. They may come from a generator, so that only one model's values
    are in memory at a time.
    """
    mean: np.ndarray = np.zeros(1, np.float32)
    for log_probs, delay in predictions:
        values, rate = log_probs.values, FrameRate.of(log_probs, delay)
        if (rate.stride, rate.delay) != (target.stride, target.delay) or (rate.offsets != target.offsets).any():
            values = values[resampled_rows(rate, target)]
        mean = mean + np.exp(values.astype(np.float32)) / count
    return mean


def mean_log_probs(loaded: Sequence[LogProbs]) -> LogProbs:
    """The mean probabilities per frame, as log-probabilities, of predictions that have the same frames."""
    mean = mean_probabilities(((log_probs, 0) for log_probs in loaded), len(loaded), FrameRate.of(loaded[0]))
    return replace(loaded[0], values=np.log(np.maximum(mean, LEAST_PROBABILITY)).astype(np.float16))


def resampled_rows(source: FrameRate, target: FrameRate) -> np.ndarray:
    """For each target frame, the source frame that covers its middle, or the nearest one in the same utterance.

    >>> resampled_rows(FrameRate(np.array([0, 2]), 4), FrameRate(np.array([0, 4]), 2)).tolist()
    [0, 0, 1, 1]
    """
    lengths, target_lengths = np.diff(source.offsets), np.diff(target.offsets)
    within = np.arange(target.offsets[-1]) - np.repeat(target.offsets[:-1], target_lengths)
    middle = target.stride * (2 * within + 1) + 2 * (source.delay - target.delay)  # in halves of an input frame
    covering = np.clip(middle // (2 * source.stride), 0, np.repeat(lengths, target_lengths) - 1)
    return covering + np.repeat(source.offsets[:-1], target_lengths)
