"""Features and posteriors of some utterances, embedded in the page in 8 bits, small enough to be sent by e-mail."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.members.frame_mean import FrameRate, mean_probabilities
from folds.data.dataset import Split

FEATURE_STEP = 2
"""Number of feature frames averaged into one."""
LEAST = 0.02
"""Smaller probabilities are omitted; the blank gets what the others lack to 1."""


def pack_features(features: np.ndarray) -> dict[str, Any]:
    """Features (T, F) averaged over FEATURE_STEP frames, as bytes (T / FEATURE_STEP, F) from 0 (low) to 255 (high).

    The ends of the scale are the 1st and 99th percentile of each dimension.
    """
    steps = max(len(features) // FEATURE_STEP, 1)
    means = features[: steps * FEATURE_STEP].reshape(steps, -1, features.shape[1]).mean(axis=1)
    low, high = np.percentile(means, [1, 99], axis=0)
    scaled = np.clip((means - low) / np.maximum(high - low, 1e-9), 0, 1)
    return {"frames": steps, "step": FEATURE_STEP, "data": _base64((255 * scaled).round())}


def pack_posteriors(probabilities: np.ndarray) -> dict[str, Any]:
    """Probabilities (T', C) as triples of bytes: frames since the last triple, class, probability times 255.

    Class 0, the blank, is omitted, except in triples of probability 0 that bridge gaps of more than 255 frames.
    """
    frames, classes = np.nonzero(probabilities[:, 1:] >= LEAST)
    triples, last = [], 0
    for frame, index in zip(frames.tolist(), (classes + 1).tolist(), strict=True):
        while frame - last > 255:
            triples.append((255, 0, 0))
            last += 255
        triples.append((frame - last, index, round(255 * float(probabilities[frame, index]))))
        last = frame
    return {"frames": len(probabilities), "data": _base64(np.array(triples).reshape(-1))}


def pack_details(inputs: BlendInputs, split: Split, rows: Sequence[int], max_bytes: int) -> dict[int, dict[str, Any]]:
    """Features and every member's posteriors for the utterances `rows`, as many as fit in `max_bytes`.

    A member's posteriors are the mean over its networks, at the frame rate of the first network.
    """
    posteriors_by_member = [_member_probabilities(inputs.take(rows), member) for member in range(len(inputs.names))]
    details: dict[int, dict[str, Any]] = {}
    size = 0
    for index, row in enumerate(rows):
        features = pack_features(split.features(row))
        members = [pack_posteriors(posteriors[index]) for posteriors in posteriors_by_member]
        size += sum(len(part["data"]) + 40 for part in (features, *members))
        if size > max_bytes:
            break
        details[row] = {"features": features, "posteriors": members}
    return details


def _member_probabilities(inputs: BlendInputs, member: int) -> list[np.ndarray]:
    """A member's mean probabilities (T', C) of each utterance of `inputs`."""
    indices = inputs.prediction_indices([member])
    rate = FrameRate.of(inputs.load(indices[0]))  # a member's networks have the same delay
    mean = mean_probabilities(((inputs.load(index), 0) for index in indices), len(indices), rate)
    return np.split(mean, rate.offsets[1:-1])


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, np.uint8).tobytes()).decode()
