"""What one run trains on, and how: all that the training loop needs besides the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from folds.data.batches import plan
from folds.data.dataset import Dataset, Split, too_short
from folds.store.run_folder import RunFolder
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe
from models import CTCModel
from registry import InputError

Start = Literal["random", "given", "checkpoint"]


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """One run: the utterances it trains on and those it holds out, as indices into the train split; recipe; folder."""

    dataset: Dataset
    fitted: np.ndarray
    held_out: np.ndarray
    recipe: TrainingRecipe
    seed: int
    device: torch.device
    folder: RunFolder
    group: ProcessGroup = field(default_factory=ProcessGroup)
    start: Start = "random"
    """What a run without a checkpoint starts from: random weights, the weights the network is given with, or, for
    "checkpoint", nothing: a checkpoint is required."""

    @property
    def watched(self) -> tuple[Split, np.ndarray]:
        """What is scored during training, a split and indices: the held-out utterances; without any, all of dev."""
        if len(self.held_out):
            return self.dataset.train, self.held_out
        return self.dataset.dev, np.arange(len(self.dataset.dev))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as positions in `fitted`."""
        lengths = self.dataset.train.lengths[self.fitted]
        return plan(lengths, frames=self.recipe.batch_frames, seed=self.seed, epoch=epoch)

    def steps(self, epoch: int) -> int:
        """The steps of an epoch: one per `--accumulate` batches."""
        return -(-len(self.batches(epoch)) // self.recipe.accumulate)


def long_enough(model: CTCModel, dataset: Dataset, indices: np.ndarray, skip_bad: bool) -> np.ndarray:
    """The training utterances among `indices` that `model` can fit.

    The others have fewer output frames than their labels need. Raises InputError for those unless `skip_bad`, and if
    nothing is left.
    """
    split = dataset.train
    outputs = model.output_lengths(torch.from_numpy(split.lengths)).numpy()
    bad = np.intersect1d(too_short(split, outputs), indices)
    if len(bad):
        listed = ", ".join(split.ids[i] for i in bad[:5]) + (", …" if len(bad) > 5 else "")
        if not skip_bad:
            raise InputError(
                f"{len(bad)} training utterances have fewer output frames at stride {model.stride} than their labels "
                f"need: {listed}; use a model with a smaller stride, or leave them out with --skip-bad"
            )
        print(f"left out, too short for their labels at stride {model.stride}: {listed}")
    fitted = np.setdiff1d(indices, bad)
    if not len(fitted):
        raise InputError("nothing is left to fit: every training utterance is too short for its labels at this stride")
    return fitted
