"""The normalisation of features, the same in training and in prediction."""

from __future__ import annotations

import numpy as np


def normalize(features: np.ndarray) -> np.ndarray:
    """Per utterance and feature, `(x - mean over time) / (std over time + 1e-8)`: `(T, F)` → `(T, F)` float32.

    Summed in float64, so that a constant feature becomes 0.
    """
    wide = features.astype(np.float64)
    return ((wide - wide.mean(axis=0)) / (wide.std(axis=0) + 1e-8)).astype("<f4")
