"""Augmentation of training batches: a random speed and random masks per utterance, in whole-batch operations.

Masks over time and features are SpecAugment's (Park et al. 2019, arXiv 1904.08779). A change of speed interpolates
between frames, which stands in for resampling the audio (Ko et al. 2015, "Audio augmentation for speech recognition").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from folds.data.batches import Batch, repeated
from folds.data.dataset import ctc_frames
from folds.store.ragged import Ragged, offsets_of
from registry.errors import InputError


@dataclass(frozen=True)
class SpecAugment:
    """Masks over time and over features; a masked value becomes 0, the mean of normalised features."""

    time_mask: int = 30
    """Maximum time-mask width in frames; 0 disables."""
    time_every: int = 120
    """One time mask per this many frames."""
    feature_mask: int = 3
    """Maximum feature-mask width in features; 0 disables."""
    feature_masks: int = 1
    """Number of feature masks per utterance; 0 disables."""
    speed: float = 0.1
    """Maximum relative speed change, e.g. 0.1 for 0.9x to 1.1x; 0 disables."""

    def __post_init__(self) -> None:
        for name, least in (("time_mask", 0), ("time_every", 1), ("feature_mask", 0), ("feature_masks", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise InputError(f"--{option} {getattr(self, name)}: expected a whole number of at least {least}")
        if not 0 <= self.speed < 1:
            raise InputError(f"--speed {self.speed}: expected a fraction in [0, 1)")


def augment(batch: Batch, options: SpecAugment, stride: int, generator: torch.Generator, views: int = 1) -> Batch:
    """Returns a batch of `views * N` utterances: view 0 of all N, then view 1, and so on.

    All views share one speed, so frame j aligns across views; only the masks differ. An utterance that would become too
    short for CTC at `stride` keeps its original speed. The batch and the generator must be on the CPU.
    """
    if options.speed:
        batch = _change_speed(batch, options.speed, stride, generator)
    batch = repeated(batch, views)
    return replace(batch, features=_mask(batch.features, batch.lengths, options, generator))


def _change_speed(batch: Batch, max_change: float, stride: int, generator: torch.Generator) -> Batch:
    """Each utterance at a random speed in `1 ± max_change`, by linear interpolation between frames."""
    rate = 1 + max_change * (2 * torch.rand(len(batch.lengths), generator=generator) - 1)
    labels = Ragged(batch.targets.numpy(), offsets_of(batch.target_lengths.numpy()))
    needed = torch.from_numpy(ctc_frames(labels))
    lengths = (batch.lengths / rate).round().long().clamp(min=1)
    lengths = torch.where(lengths >= needed * stride, lengths, batch.lengths)
    # Frame j of the new utterance is at position j (T - 1) / (T' - 1) of the old one.
    step = (batch.lengths - 1) / (lengths - 1).clamp(min=1)
    position = torch.arange(int(lengths.max())) * step[:, None]
    position = torch.minimum(position, batch.lengths[:, None] - 1.0)
    before = position.floor().long()
    after = torch.minimum(before + 1, batch.lengths[:, None] - 1)
    rows = torch.arange(len(lengths))[:, None]
    weight = (position - before)[:, :, None]
    features = batch.features[rows, before] * (1 - weight) + batch.features[rows, after] * weight
    features *= (torch.arange(features.shape[1]) < lengths[:, None])[:, :, None]
    return replace(batch, features=features, lengths=lengths)


def _mask(features: Tensor, lengths: Tensor, options: SpecAugment, generator: torch.Generator) -> Tensor:
    """A copy of features `(N, T, F)` with random time and feature masks set to 0; lengths `(N,)`."""
    batch, frames, size = features.shape
    features = features.clone()
    if options.time_mask:
        masks = int(lengths.max()) // options.time_every + 1
        width = torch.randint(0, options.time_mask + 1, (batch, masks), generator=generator)
        # Shorter utterances get fewer masks: surplus masks get width 0.
        width *= torch.arange(masks) < (lengths[:, None] // options.time_every).clamp(min=1)
        start = (torch.rand(batch, masks, generator=generator) * (lengths[:, None] - width).clamp(min=1)).long()
        features.masked_fill_(_spans(start, width, frames)[:, :, None], 0.0)
    if options.feature_mask and options.feature_masks:
        shape = (batch, options.feature_masks)
        width = torch.randint(0, options.feature_mask + 1, shape, generator=generator).clamp(max=size)
        start = (torch.rand(shape, generator=generator) * (size - width + 1)).long()
        features.masked_fill_(_spans(start, width, size)[:, None, :], 0.0)
    return features


def _spans(start: Tensor, width: Tensor, size: int) -> Tensor:
    """Union of the M spans `[start, start + width)` per row; start and width `(N, M)` → bool `(N, size)`."""
    position = torch.arange(size)
    return ((position >= start[..., None]) & (position < (start + width)[..., None])).any(dim=1)
