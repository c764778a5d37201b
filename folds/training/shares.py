"""This process's shares of an epoch's batches: planned ahead, then prepared on the prefetching thread."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from folds.data.augmentation import augment
from folds.data.batches import Batch, collate
from folds.training.state import step_seeds
from folds.training.step_metrics import Counters
from folds.training.task import TrainingTask


@dataclass(frozen=True, eq=False)
class Share:
    """This process's utterances of one of the batches of a step."""

    step: int
    """Number of the run's steps before this one."""
    indices: np.ndarray
    """Positions in the train split."""
    frames: int
    """Number of their input frames, before augmentation."""
    labels: float
    """Number of their labels, or 0 if the share is also another process's."""
    batch_labels: float
    """Number of labels of the whole batch, over all processes."""


def epoch_shares(task: TrainingTask, counters: Counters) -> list[Share]:
    """The shares of the rest of the current epoch. All processes compute the same plan, so none has to communicate."""
    split, group = task.dataset.train, task.group
    assert split.tokens is not None
    frames, labels = split.lengths, split.tokens.lengths
    shares = []
    for count, chosen in enumerate(task.batches(counters.epoch)[counters.position :]):
        batch = task.fitted[chosen]
        own = group.share(batch)
        shares.append(
            Share(
                step=counters.step + count // task.recipe.accumulate,
                indices=own,
                frames=int(frames[own].sum()),
                labels=group.weight(batch) * float(labels[own].sum()),
                batch_labels=float(labels[batch].sum()),
            )
        )
    return shares


class SharePreparation:
    """Collates and augments shares, one call per share in order, and pins their memory if they go to CUDA.

    The batches of one step use the same random generator, one after the other.
    """

    def __init__(self, task: TrainingTask, stride: int) -> None:
        self.task = task
        self.stride = stride
        self._step = -1
        self._masks = torch.Generator()

    def __call__(self, share: Share) -> Batch:
        recipe = self.task.recipe
        if share.step != self._step:
            self._step = share.step
            self._masks.manual_seed(step_seeds(self.task.seed, self.task.group.rank, share.step).masks)
        batch = collate(self.task.dataset.train, share.indices)
        batch = augment(
            batch,
            recipe.augment,
            self.stride,
            self._masks,
            views=2 if recipe.consistency else 1,
            keep_unmasked=self.task.guide is not None,
        )
        if self.task.student_targets is not None:
            # The views of an utterance have the same index, and so the same hypotheses.
            batch = replace(batch, soft=self.task.student_targets.of_batch(batch.indices))
        return batch.pinned() if self.task.device.type == "cuda" else batch
