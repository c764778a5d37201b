"""Batches of utterances of similar length, bounded by frames; an epoch's batches depend only on seed and epoch.

A resumed run therefore gets the same batches as an uninterrupted one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from folds.data.dataset import Split
from folds.store.ragged import Ragged

# Batches prepared in advance. With only one, a step on a short batch would wait for a long batch after it.
AHEAD = 2

Item = TypeVar("Item")


@dataclass(frozen=True)
class SoftTargets:
    """Weighted label sequences for a batch, any number per utterance, P in all.

    Sequence p belongs to the batch's utterance `rows[p]`; `rows` and `target_lengths`, both `(P,)`, are always on the
    CPU. `targets` is `(sum of L,)`; `weights` `(P,)` float32 sum to 1 for each utterance.
    """

    rows: Tensor
    targets: Tensor
    target_lengths: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> SoftTargets:
        """The same with targets and weights on `device`."""
        targets, weights = (tensor.to(device, non_blocking=True) for tensor in (self.targets, self.weights))
        return replace(self, targets=targets, weights=weights)

    def pinned(self) -> SoftTargets:
        """The same in page-locked memory."""
        return SoftTargets(*(getattr(self, field.name).pin_memory() for field in fields(self)))


@dataclass(frozen=True)
class Batch:
    """One batch of utterances.

    `features` float32 `(N, T, F)`, zero past `lengths` `(N,)`; `targets` `(sum of L,)` with `target_lengths` `(N,)`;
    `indices` are positions in the split. `lengths` and `target_lengths` are always on the CPU. `unmasked`, if needed,
    holds the features of one view before masking, `(N / views, T, F)`; `noisy` `(N, T, F)`, if noise is to be added,
    marks the values that get it; `soft` holds a teacher's hypotheses; `groups` names each utterance's speaker or day.
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    indices: tuple[int, ...]
    unmasked: Tensor | None = None
    noisy: Tensor | None = None
    soft: SoftTargets | None = None
    groups: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch with features and targets on `device`.

        Lengths stay on the CPU: they determine shapes, and every read of them from a GPU would wait for it.
        """
        features, targets = (tensor.to(device, non_blocking=True) for tensor in (self.features, self.targets))
        unmasked = self.unmasked.to(device, non_blocking=True) if self.unmasked is not None else None
        noisy = self.noisy.to(device, non_blocking=True) if self.noisy is not None else None
        soft = self.soft.to(device) if self.soft is not None else None
        return replace(self, features=features, targets=targets, unmasked=unmasked, noisy=noisy, soft=soft)

    def pinned(self) -> Batch:
        """The same batch in page-locked memory, from which copies to CUDA overlap with computation."""
        return Batch(
            features=self.features.pin_memory(),
            lengths=self.lengths.pin_memory(),
            targets=self.targets.pin_memory(),
            target_lengths=self.target_lengths.pin_memory(),
            indices=self.indices,
            unmasked=self.unmasked.pin_memory() if self.unmasked is not None else None,
            noisy=self.noisy.pin_memory() if self.noisy is not None else None,
            soft=self.soft.pinned() if self.soft is not None else None,
            groups=self.groups,
        )


def plan(lengths: np.ndarray, *, frames: int, seed: int | None = None, epoch: int = 0) -> list[np.ndarray]:
    """Batches of positions in `lengths`, each of at most `frames` frames including padding, or of one utterance.

    With a seed, lengths are jittered by up to 5 % before sorting, so that batches are composed differently in each
    epoch, and batches are shuffled; without one, they go from the longest utterances to the shortest.

    >>> [batch.tolist() for batch in plan(np.array([5, 9, 4]), frames=10)]
    [[1], [0, 2]]
    """
    order = np.argsort(-lengths, kind="stable")
    random = np.random.default_rng((seed, epoch)) if seed is not None else None
    if random is not None:
        order = np.argsort(-lengths * random.uniform(0.95, 1.05, len(lengths)), kind="stable")
    batches, start, longest = [], 0, 0
    for position, index in enumerate(order):
        longest = max(longest, int(lengths[index]))
        if position > start and longest * (position - start + 1) > frames:
            batches.append(order[start:position])
            start, longest = position, int(lengths[index])
    if len(order):
        batches.append(order[start:])
    if random is not None:
        batches = [batches[i] for i in random.permutation(len(batches))]
    return batches


def padding_share(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Share of the batches' frames that are padding, 0 to 1."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1.0 - float(lengths.sum()) / padded if padded else 0.0


def collate(split: Split, indices: Sequence[int] | np.ndarray) -> Batch:
    """The utterances at `indices` as one batch; targets are empty if the split has no transcripts.

    This uses NumPy because it runs on a separate thread: PyTorch's parallel loops would start a second OpenMP team
    there, and with more threads than cores OpenMP sleeps between the many short loops of recurrent layers. On two
    cores that made training five times slower.
    """
    features = [split.features(i) for i in indices]
    lengths = np.array([len(x) for x in features])
    padded = np.zeros((len(features), lengths.max(), features[0].shape[1]), np.float32)
    for row, x in enumerate(features):
        padded[row, : len(x)] = x
    tokens = Ragged.of([[]] * len(features), np.int16) if split.tokens is None else split.tokens.take(indices)
    return Batch(
        features=torch.from_numpy(padded),
        lengths=torch.from_numpy(lengths),
        targets=torch.from_numpy(tokens.values.astype(np.int64)),
        target_lengths=torch.from_numpy(tokens.lengths),
        indices=tuple(int(i) for i in indices),
        groups=tuple(split.groups[i] for i in indices),
    )


def repeated(batch: Batch, times: int) -> Batch:
    """The batch repeated `times` times as one batch: all of its utterances, then all of them again; on the CPU.

    This uses NumPy for the reason given in `collate`.
    """
    return Batch(
        features=_tiled(batch.features, times),
        lengths=_tiled(batch.lengths, times),
        targets=_tiled(batch.targets, times),
        target_lengths=_tiled(batch.target_lengths, times),
        indices=batch.indices * times,
        groups=batch.groups * times,
    )


def _tiled(tensor: Tensor, times: int) -> Tensor:
    array = tensor.numpy()
    return torch.from_numpy(np.tile(array, (times,) + (1,) * (array.ndim - 1)))


def prefetched(prepare: Callable[[Item], Batch], items: Iterable[Item]) -> Iterator[Batch]:
    """`prepare(item)` for each item in order, computed by a background thread up to `AHEAD` batches ahead."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: deque[Future[Batch]] = deque()
        for item in items:
            ahead.append(pool.submit(prepare, item))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
