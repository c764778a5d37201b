"""Temperatures: how overconfident or underconfident each member's frame posteriors are.

A member's temperature maximises the CTC likelihood of the out-of-fold transcripts (Guo et al., "On calibration of
modern neural networks", ICML 2017). Dividing log-probabilities by it does not change a single model's greedy
hypothesis, only the relative weight of members in an average of frames. There it is one of the settings searched, so it
is used only if it helps. The sequence-level blenders need none: their weights and the posterior's sharpness scale the
scores of whole hypotheses in the same way.
"""

from __future__ import annotations

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from models.ctc import log_likelihood

GRID = (0.6, 0.75, 0.9, 1.0, 1.15, 1.35, 1.6, 2.0)
UTTERANCES = 200


def apply_temperature(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Divide log-probabilities (…, C) by `temperature` and renormalise them."""
    scaled = np.asarray(log_probs, np.float32) / np.float32(temperature)
    return scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)


def fit_temperatures(inputs: BlendInputs) -> list[float]:
    """The temperature of each member, from `GRID`, by the likelihood of at most `UTTERANCES` references.

    `inputs` are out of fold, where each member has one prediction.
    """
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(UTTERANCES, len(inputs))).astype(int))
    sample = inputs.take(rows)
    temperatures: list[float] = []
    for index in sample.prediction_indices():
        frames = sample.load(index)
        means = []
        for temperature in GRID:
            scores = [
                log_likelihood(apply_temperature(frames[row], temperature), [reference])[0]
                for row, reference in enumerate(sample.references)
            ]
            # A transcript that does not fit into a member's frames is impossible at any temperature.
            possible = [score for score in scores if np.isfinite(score)]
            means.append(float(np.mean(possible)) if possible else -np.inf)
        temperatures.append(GRID[int(np.argmax(means))] if np.isfinite(means).any() else 1.0)
    return temperatures
