"""SpecAugment drawn for each utterance by itself (Park et al. 2019, arXiv 1904.08779), in whole-batch operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from registry import InputError


@dataclass(frozen=True)
class Augment:
    """Masks over time and over features; a masked value becomes 0, the mean of normalised features."""

    time_mask: int = 30
    """Longest time mask, frames; 0 for none."""
    time_every: int = 120
    """One time mask for each so many frames of the utterance."""
    feature_mask: int = 3
    """Widest feature mask, values; 0 for none."""
    feature_masks: int = 1
    """Feature masks an utterance."""

    def __post_init__(self) -> None:
        if min(self.time_mask, self.feature_mask, self.feature_masks) < 0 or self.time_every < 1:
            raise InputError("--time-mask, --feature-mask, --feature-masks: at least 0; --time-every: at least 1")


def augment(features: Tensor, lengths: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Masked copy of features `(N, T, F)`, lengths `(N,)`; the generator and the tensors live on the CPU."""
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
