"""Augmentation of training batches: random speed, noise, offset and masks per utterance.

Time and feature masks follow SpecAugment (Park et al. 2019, arXiv 1904.08779). Speed perturbation interpolates between
frames, as a substitute for resampling the audio (Ko et al. 2015, "Audio augmentation for speech recognition").

Like `collate`, `augment` uses NumPy because it runs on the prefetching thread; PyTorch only draws the random numbers.
Noise is added on the model's device: with 512 features, the CPU would need longer for it than a GPU for a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from folds.data.batches import Batch, repeated
from folds.data.dataset import ctc_frames
from folds.store.ragged import Ragged, offsets_of
from registry.bounds import Bounded, number


@dataclass(frozen=True)
class SpecAugment(Bounded):
    """Time masks, feature masks, noise and speed perturbation.

    A masked value becomes 0, the mean of normalised features.
    """

    time_mask: int = number(30, at_least=0, at_most=100_000, search=(0, 60))
    """Maximum time-mask width in frames; 0 disables."""
    time_every: int = number(120, at_least=1, at_most=1_000_000, scale="log", search=(50, 400))
    """One time mask per this many frames."""
    feature_mask: int = number(3, at_least=0, at_most=10_000, search=(0, 8))
    """Maximum feature-mask width in features; 0 disables."""
    feature_masks: int = number(1, at_least=0, at_most=1000)
    """Number of feature masks per utterance; 0 disables."""
    speed: float = number(0.1, at_least=0, below=1, search=(0.0, 0.2))
    """Maximum relative speed change, e.g. 0.1 for 0.9x to 1.1x; 0 disables."""
    noise: float = number(0.0, at_least=0, at_most=100)
    """Standard deviation of white noise added to each value; 0 disables."""
    offset: float = number(0.0, at_least=0, at_most=100)
    """Standard deviation of a random constant added to each feature of an utterance, the same in all of its frames; 0
    disables."""


def augment(
    batch: Batch,
    options: SpecAugment,
    stride: int,
    generator: torch.Generator,
    views: int = 1,
    keep_unmasked: bool = False,
) -> Batch:
    """A batch of `views * N` utterances: view 0 of all N, then view 1, and so on.

    All views share one speed, so frame j aligns across views; only masks and noise differ. An utterance that would
    become too short for CTC at `stride` keeps its original speed. With `keep_unmasked`, the batch also has the unmasked
    features at the new speed. Noise is left to `add_noise`. The batch and the generator must be on the CPU.
    """
    if options.speed:
        batch = _change_speed(batch, options.speed, stride, generator)
    masked = repeated(batch, views)
    features, lengths = masked.features.numpy(), masked.lengths.numpy()
    if options.noise or options.offset:
        inside = np.arange(features.shape[1]) < lengths[:, None]
        noisy = np.broadcast_to(inside[:, :, None], features.shape).copy()
        _mask([features, noisy], lengths, options, generator)
        masked = replace(masked, noisy=torch.from_numpy(noisy))
    else:
        _mask([features], lengths, options, generator)
    return replace(masked, unmasked=batch.features) if keep_unmasked else masked


def add_noise(batch: Batch, options: SpecAugment) -> Batch:
    """The batch with noise and offsets added where `noisy` is True, drawn on its device from the default generator."""
    if batch.noisy is None:
        return batch
    utterances, _, size = batch.features.shape
    added = options.offset * torch.randn(utterances, 1, size, device=batch.features.device)
    if options.noise:
        added = added + options.noise * torch.randn_like(batch.features)
    return replace(batch, features=batch.features + added.masked_fill(~batch.noisy, 0.0), noisy=None)


def _change_speed(batch: Batch, max_change: float, stride: int, generator: torch.Generator) -> Batch:
    """Each utterance at a random speed in `1 ± max_change`, by linear interpolation between frames."""
    old = batch.lengths.numpy()
    rate = 1 + max_change * (2 * torch.rand(len(old), generator=generator).numpy() - 1)
    needed = ctc_frames(Ragged(batch.targets.numpy(), offsets_of(batch.target_lengths.numpy())))
    new = np.maximum((old.astype(np.float32) / rate).round().astype(np.int64), 1)
    new = np.where(new >= needed * stride, new, old)
    features = batch.features.numpy()
    changed = np.zeros((len(new), new.max(), features.shape[2]), np.float32)
    for row, (old_length, new_length) in enumerate(zip(old.tolist(), new.tolist(), strict=True)):
        changed[row, :new_length] = _stretch(features[row, :old_length], new_length)
    return replace(batch, features=torch.from_numpy(changed), lengths=torch.from_numpy(new))


def _stretch(frames: np.ndarray, length: int) -> np.ndarray:
    """Frames `(T, F)` float32 interpolated to `(length, F)`; the first and the last frame are kept."""
    last = len(frames) - 1
    # Frame j of the result is at position j (T - 1) / (length - 1) of `frames`.
    position = np.arange(length, dtype=np.float32) * (np.float32(last) / np.float32(max(length - 1, 1)))
    position = np.minimum(position, np.float32(last))
    before = position.astype(np.int64)
    after = np.minimum(before + 1, last)
    weight = (position - before.astype(np.float32))[:, None]
    return frames[before] * (1 - weight) + frames[after] * weight


def _mask(
    arrays: Sequence[np.ndarray], lengths: np.ndarray, options: SpecAugment, generator: torch.Generator
) -> None:
    """Set random spans of time and of features to 0, the same in all arrays `(N, T, F)`, in place; lengths `(N,)`."""
    batch, _, size = arrays[0].shape
    if options.time_mask:
        masks = int(lengths.max()) // options.time_every + 1
        width = torch.randint(0, options.time_mask + 1, (batch, masks), generator=generator).numpy()
        # Shorter utterances get fewer masks: surplus masks get width 0.
        width = width * (np.arange(masks) < np.maximum(lengths[:, None] // options.time_every, 1))
        start = _random_starts(np.maximum(lengths[:, None] - width + 1, 1), generator)
        for row, mask in zip(*np.nonzero(width), strict=True):
            for array in arrays:
                array[row, start[row, mask] : start[row, mask] + width[row, mask]] = 0
    if options.feature_mask and options.feature_masks:
        shape = (batch, options.feature_masks)
        width = np.minimum(torch.randint(0, options.feature_mask + 1, shape, generator=generator).numpy(), size)
        start = _random_starts(size - width + 1, generator)
        for row, mask in zip(*np.nonzero(width), strict=True):
            for array in arrays:
                array[row, :, start[row, mask] : start[row, mask] + width[row, mask]] = 0


def _random_starts(choices: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """For each of `choices`, a random integer from 0 to one less; int64 of the same shape."""
    return (torch.rand(choices.shape, generator=generator).numpy() * choices.astype(np.float32)).astype(np.int64)
