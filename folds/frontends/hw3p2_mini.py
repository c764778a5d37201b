"""The front end of the stand-in competition `hw3p2-mini`, whose features are normalised and stored in 8 bits."""

from __future__ import annotations

import numpy as np

from folds.frontends.base import register_front_end
from folds.frontends.kaldi import mfcc

STEP = 8.25 / 127
"""Quantisation step; found in the data, whose values are multiples of it."""


@register_front_end("hw3p2-mini", features=13, data=("a2bc24b9b5ca611e",))
def hw3p2_mini(samples: np.ndarray) -> np.ndarray:
    """13 Kaldi MFCCs of samples between -1 and 1, normalised per utterance and rounded to 8 bits.

    For 12 utterances whose audio is known, 99.99 % of the values are equal to the stand-in's, and the others are one
    step off. The standard deviation is the sample standard deviation (divided by T - 1).
    """
    features = mfcc(samples, coefficients=13, mel_bins=23, scale=1.0).astype(np.float64)
    deviation = features.std(axis=0, ddof=1) if len(features) > 1 else np.zeros(features.shape[1])
    normalized = (features - features.mean(axis=0)) / (deviation + 1e-8)
    return (np.clip(np.round(normalized / STEP), -127, 127) * STEP).astype(np.float32)
