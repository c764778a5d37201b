"""Splits whose features are normalised differently from the cache, or delayed, as they are read.

The cache holds features normalised per utterance, and each utterance's mean and standard deviation before that. Any
other normalisation is therefore a scale and a shift per utterance and feature.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from folds.data.dataset import Dataset, Split
from folds.store.ragged import Ragged
from models.features import EPSILON, FeatureTransform, delayed, group_moments


@dataclass(frozen=True, eq=False)
class _RescaledFrames(Ragged):
    """Frames that are scaled and shifted when read, by `scale` and `shift` `(N, F)` float32."""

    scale: np.ndarray
    shift: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return super().__getitem__(index) * self.scale[index] + self.shift[index]


def renormalized(split: Split, normalization: str) -> Split:
    """`split` normalised per "utterance" (as in the cache), per "group", or with "none": the features as in the data.

    A group's statistics are those of its frames in this split. They need no labels, so a group not seen in training
    has its own. Read the features with `features(index)`.
    """
    if normalization == "utterance":
        return split
    if split.moments is None:
        raise ValueError(f"{split.name}: the means and standard deviations of its features are not known")
    means, deviations = (moment.astype(np.float64) for moment in split.moments)
    scale, shift = deviations + EPSILON, means
    if normalization == "group":
        group_means, group_deviations = group_moments(split.lengths, means, deviations, split.groups)
        scale, shift = scale / (group_deviations + EPSILON), (means - group_means) / (group_deviations + EPSILON)
    rescaling = scale.astype(np.float32), shift.astype(np.float32)
    return dataclasses.replace(split, frames=_RescaledFrames(split.frames.values, split.frames.offsets, *rescaling))


@dataclass(frozen=True, eq=False)
class _DelayedFrames(Ragged):
    """The frames of `source`, delayed when read."""

    source: Ragged
    delay: int

    def __getitem__(self, index: int) -> np.ndarray:
        return delayed(self.source[index], self.delay)

    @property
    def lengths(self) -> np.ndarray:
        return self.source.lengths + self.delay


def as_read(split: Split, transform: FeatureTransform) -> Split:
    """`split` as a network reads it: `renormalized` and delayed; smoothing is done when the cache is built.

    Read the features with `features(index)`.
    """
    split = renormalized(split, transform.normalization)
    if not transform.delay:
        return split
    frames = split.frames
    return dataclasses.replace(split, frames=_DelayedFrames(frames.values, frames.offsets, frames, transform.delay))


def dataset_as_read(dataset: Dataset, transform: FeatureTransform) -> Dataset:
    """`dataset` with `as_read` applied to each split."""
    train, dev, test = (as_read(split, transform) for split in (dataset.train, dataset.dev, dataset.test))
    return dataclasses.replace(dataset, train=train, dev=dev, test=test)
