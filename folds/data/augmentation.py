"""Each utterance is spoken a little faster or slower and masked by itself, in whole-batch operations.

Masks over time and features are SpecAugment's (Park et al. 2019, arXiv 1904.08779); a change of speed is an
interpolation of frames, the features' stand-in for resampled audio (Ko et al. 2015).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from folds.data.batches import Batch, repeated
from registry import InputError


@dataclass(frozen=True)
class SpecAugment:
    """Masks over time and over features; a masked value becomes 0, the mean of normalised features."""

    time_mask: int = 30
    """Longest time mask, frames; 0 for none."""
    time_every: int = 120
    """One time mask for each so many frames of the utterance."""
    feature_mask: int = 3
    """Widest feature mask, values; 0 for none."""
    feature_masks: int = 1
    """Feature masks an utterance."""
    speed: float = 0.1
    """Change an utterance's speed by up to this share, up or down; 0 for none."""

    def __post_init__(self) -> None:
        if min(self.time_mask, self.feature_mask, self.feature_masks) < 0 or self.time_every < 1:
            raise InputError("--time-mask, --feature-mask, --feature-masks: at least 0; --time-every: at least 1")
        if not 0 <= self.speed < 1:
            raise InputError(f"--speed {self.speed}: expected a share from 0 to below 1")


def augment(batch: Batch, options: SpecAugment, stride: int, generator: torch.Generator, views: int = 1) -> Batch:
    """Changed copies of a batch, `views` of them one after the other; it and the generator live on the CPU.

    Copies differ in their masks alone: at two speeds their frames would not be the same sounds. `stride` is the
    model's: no utterance becomes too short for its labels.
    """
    if options.speed:
        batch = _stretched(batch, options.speed, stride, generator)
    batch = repeated(batch, views)
    return replace(batch, features=_masked(batch.features, batch.lengths, options, generator))


def _stretched(batch: Batch, share: float, stride: int, generator: torch.Generator) -> Batch:
    """Each utterance at a speed from 1 - share to 1 + share, by linear interpolation between frames."""
    rate = 1 + share * (2 * torch.rand(len(batch.lengths), generator=generator) - 1)
    # CTC needs a frame a label and one more between equal neighbours.
    starts = batch.target_lengths.cumsum(0) - batch.target_lengths
    again = torch.cat([torch.zeros(1, dtype=torch.long), (batch.targets[1:] == batch.targets[:-1]).long()])
    again[starts[batch.target_lengths > 0]] = 0
    owner = torch.repeat_interleave(torch.arange(len(starts)), batch.target_lengths)
    needed = batch.target_lengths + torch.zeros_like(starts).index_add(0, owner, again)
    lengths = (batch.lengths / rate).round().long().clamp(min=1)
    lengths = torch.where(lengths >= needed * stride, lengths, batch.lengths)
    # Frame j of the new utterance lies at j (T - 1) / (T' - 1) of the old one.
    step = (batch.lengths - 1) / (lengths - 1).clamp(min=1)
    place = torch.arange(int(lengths.max())) * step[:, None]
    place = torch.minimum(place, batch.lengths[:, None] - 1.0)
    before = place.floor().long()
    after = torch.minimum(before + 1, batch.lengths[:, None] - 1)
    rows = torch.arange(len(lengths))[:, None]
    part = (place - before)[:, :, None]
    mixed = batch.features[rows, before] * (1 - part) + batch.features[rows, after] * part
    mixed *= (torch.arange(mixed.shape[1]) < lengths[:, None])[:, :, None]
    return replace(batch, features=mixed, lengths=lengths)


def _masked(features: Tensor, lengths: Tensor, options: SpecAugment, generator: torch.Generator) -> Tensor:
    batch, frames, size = features.shape
    features = features.clone()
    if options.time_mask:
        masks = int(lengths.max()) // options.time_every + 1
        width = torch.randint(0, options.time_mask + 1, (batch, masks), generator=generator)
        # An utterance gets its own share of masks: those past it have no width.
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
    """Union of spans `[start, start + width)`: bool `(N, size)` from `(N, M)` each."""
    position = torch.arange(size)
    return ((position >= start[..., None]) & (position < (start + width)[..., None])).any(dim=1)
