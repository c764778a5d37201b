"""Features like those of Brain-to-Text, simulated from phonemes: each phoneme is a point in a low-dimensional space.

A trial moves from point to point, with noise that is correlated in time; a matrix spreads the dimensions over the
channels. Each day has a different matrix, as electrodes and tuning drift, and a different offset per channel. Every
channel also has white noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

DIMENSIONS = 16
"""Dimensions of the activity that the channels share."""
DRIFT = 0.5
"""How far a day's mixing is from the common one, relative to the common one."""
NOISE = 1.1
"""Standard deviation of the noise in each dimension; that of the phonemes is 1."""
SILENT_FRAMES = (6, 13)
PHONEME_FRAMES = (5, 11)
"""Frames of the silence at both ends, and of a phoneme: from, to (excluded)."""


class Participant:
    """The participant whose activity is simulated, the same for the same seed."""

    def __init__(self, classes: int, channels: int, seed: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        self._points = rng.standard_normal((classes, DIMENSIONS))
        self._mixing = rng.standard_normal((DIMENSIONS, channels)) / np.sqrt(DIMENSIONS)

    def day(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A day's mixing `(DIMENSIONS, channels)` and offset `(channels,)`."""
        drift = rng.standard_normal((DIMENSIONS, DIMENSIONS)) / np.sqrt(DIMENSIONS)
        return (np.eye(DIMENSIONS) + DRIFT * drift) @ self._mixing, rng.standard_normal(self._mixing.shape[1])

    def trial(
        self, classes: Sequence[int], day: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """Features `(T, channels)` float32 of an attempt to say these classes on that day."""
        mixing, offset = day
        frames = [int(rng.integers(*SILENT_FRAMES)), *rng.integers(*PHONEME_FRAMES, len(classes)).tolist()]
        # Class 0 is the rest before and after speaking.
        path = np.repeat([0, *classes, 0], [*frames, int(rng.integers(*SILENT_FRAMES))])
        activity = gaussian_filter1d(self._points[path], 1.0, axis=0)
        noise = gaussian_filter1d(rng.standard_normal(activity.shape), 1.0, axis=0)
        activity += NOISE * noise / noise.std()
        features = activity @ mixing + offset
        return (features + rng.standard_normal(features.shape)).astype(np.float32)
