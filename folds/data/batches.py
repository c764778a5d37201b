"""Batches of utterances of like length, bounded by frames; each epoch's order follows from seed and epoch alone.

Because an epoch's batches depend on nothing else, a resumed run sees the same ones as an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from folds.data.dataset import Split


@dataclass(frozen=True)
class Batch:
    """`features` float32 `(N, T, F)`, zero past `lengths` `(N,)`; `targets` `(sum L,)`, `target_lengths` `(N,)`."""

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    indices: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        tensors = (self.features, self.lengths, self.targets, self.target_lengths)
        return Batch(*(x.to(device, non_blocking=True) for x in tensors), self.indices)


def plan(lengths: np.ndarray, *, frames: int, seed: int | None = None, epoch: int = 0) -> list[np.ndarray]:
    """Batches of positions into `lengths`, each of at most `frames` padded frames (or one utterance).

    With a seed, lengths are jittered by up to 5 % before sorting, so that neighbours change from epoch to epoch, and
    batches are shuffled; without one, batches go from the longest to the shortest.

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
    """Share of padded frames that are padding, 0 to 1."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1.0 - float(lengths.sum()) / padded if padded else 0.0


def collate(split: Split, indices: Sequence[int]) -> Batch:
    """The utterances at `indices` as one batch; targets are empty where the split has no transcripts.

    NumPy does the work, because this runs on a thread of its own: torch's parallel loops would give that thread a team
    of its own, and OpenMP, with more threads than cores, then sleeps between the recurrent layers' many short loops. On
    two cores that made training five times slower.
    """
    features = [split.features(i) for i in indices]
    lengths = np.array([len(x) for x in features])
    padded = np.zeros((len(features), lengths.max(), features[0].shape[1]), np.float32)
    for row, x in enumerate(features):
        padded[row, : len(x)] = x
    labels = [split.labels(i) for i in indices] if split.tokens is not None else [np.zeros(0, np.int16)] * len(features)
    targets = np.concatenate(labels).astype(np.int64)
    sizes = np.array([len(y) for y in labels])
    tensors = (torch.from_numpy(each) for each in (padded, lengths, targets, sizes))
    return Batch(*tensors, tuple(int(i) for i in indices))


def repeated(batch: Batch, times: int) -> Batch:
    """The batch so many times over, as one batch: all of its utterances, then all of them again."""
    features, lengths, targets, sizes = batch.features, batch.lengths, batch.targets, batch.target_lengths
    copies = features.repeat(times, 1, 1), lengths.repeat(times), targets.repeat(times), sizes.repeat(times)
    return Batch(*copies, batch.indices * times)


def prefetched(split: Split, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Collate `batches` in order, the next one on a thread while the last one is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = None
        for indices in batches:
            following = pool.submit(collate, split, indices)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
