"""Feature preprocessing, identical in training and prediction: smoothing, normalisation, delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from registry.bounds import MAX_DELAY

Normalization = Literal["utterance", "group", "none"]
EPSILON = 1e-8
"""Added to standard deviations, so that a constant feature becomes 0."""


def normalize(features: np.ndarray) -> np.ndarray:
    """Per utterance and feature, `(x - mean over time) / (std over time + 1e-8)`: `(T, F)` → `(T, F)` float32."""
    return standardize(features, *moments(features))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over time `(F,)` of features `(T, F)`, in float64: exactly 0 for a constant."""
    wide = features.astype(np.float64)
    return wide.mean(axis=0), wide.std(axis=0)


def standardize(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """`(x - mean) / (deviation + 1e-8)`, computed in float64: `(T, F)` → `(T, F)` float32."""
    return ((features.astype(np.float64) - mean) / (deviation + EPSILON)).astype("<f4")


def group_moments(
    frames: np.ndarray, means: np.ndarray, deviations: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all frames of each utterance's group, both `(N, F)` float64.

    Combines the numbers of frames `(N,)`, means and standard deviations `(N, F)` of N utterances (Chan et al. 1979).
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    mean, deviation = (np.zeros((len(names), means.shape[1])) for _ in range(2))
    for group in range(len(names)):
        rows = np.flatnonzero(group_of == group)
        weights = frames[rows, None] / frames[rows].sum()
        own = means[rows].astype(np.float64)
        mean[group] = (weights * own).sum(axis=0)
        spread = deviations[rows].astype(np.float64) ** 2 + (own - mean[group]) ** 2
        deviation[group] = np.sqrt((weights * spread).sum(axis=0))
    return mean[group_of], deviation[group_of]


def smoothed(features: np.ndarray, deviation: float) -> np.ndarray:
    """Features `(T, F)` smoothed over time with a Gaussian of this standard deviation in frames; 0 changes nothing.

    Frames are mirrored at both ends.
    """
    if not deviation:
        return features
    from scipy.ndimage import gaussian_filter1d  # takes a fifth of a second to import, so only when needed

    if features.dtype not in (np.float32, np.float64):  # integers would be truncated, float16 is rejected
        features = features.astype(np.float32)
    return gaussian_filter1d(features, deviation, axis=0)


def delayed(features: np.ndarray, frames: int) -> np.ndarray:
    """Features `(T, F)` with `frames` copies of the first frame prepended: `(T + frames, F)`."""
    return np.concatenate([np.repeat(features[:1], frames, axis=0), features]) if frames else features


@dataclass(frozen=True)
class FeatureTransform:
    """Smoothing, normalisation, then a delay. Raises ValueError for invalid values."""

    normalization: str = "utterance"
    """Normalise each feature by the mean and variance of the utterance, of all frames of its group, or not at all."""
    smooth: float = 0.0
    """Standard deviation, in frames, of the Gaussian that smooths the features; 0 for none."""
    delay: int = 0
    """Copies of the first frame prepended to an utterance; see `folds.delay`."""

    def __post_init__(self) -> None:
        if self.normalization not in get_args(Normalization):
            expected = " or ".join(get_args(Normalization))
            raise ValueError(f"normalization is {self.normalization!r}; expected {expected}")
        if not 0 <= self.smooth <= 1000:
            raise ValueError(f"smooth is {self.smooth}; expected 0 to 1000")
        if not 0 <= self.delay <= MAX_DELAY:
            raise ValueError(f"delay is {self.delay}; expected 0 to {MAX_DELAY}")

    def apply(self, utterances: Sequence[np.ndarray], groups: Sequence[str] = ()) -> list[np.ndarray]:
        """Raw features `(T, F)` of each utterance → the network's input, float32.

        A group's statistics are computed from the utterances passed; without `groups`, each utterance is its own group.
        """
        return [delayed(features, self.delay) for features in self._normalized(utterances, groups)]

    def _normalized(self, utterances: Sequence[np.ndarray], groups: Sequence[str]) -> list[np.ndarray]:
        utterances = [smoothed(features, self.smooth) for features in utterances]
        if self.normalization == "group" and groups:
            means, deviations = map(np.stack, zip(*map(moments, utterances), strict=True))
            frames = np.array([len(features) for features in utterances])
            of_groups = group_moments(frames, means, deviations, groups)
            return list(map(standardize, utterances, *of_groups))
        if self.normalization == "none":
            return [features.astype("<f4") for features in utterances]
        return [normalize(features) for features in utterances]
