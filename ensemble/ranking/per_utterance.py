"""Operations on flat arrays of the hypotheses in each utterance's pool."""

from __future__ import annotations

import numpy as np


def relative_to_best(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Values (H,) minus the largest of their utterance, float64."""
    return values - spread(np.maximum.reduceat(np.asarray(values, np.float64), offsets[:-1]), offsets)


def spread(per_utterance: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One value per utterance (N, …), repeated for each of its hypotheses (H, …)."""
    return np.repeat(per_utterance, np.diff(offsets), axis=0)
