"""The data and settings of one run: everything that the training loop needs besides the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from folds.data.batches import plan
from folds.data.dataset import Dataset, Split, too_short
from folds.store.lease import Lease
from folds.store.run_folder import RunFolder
from folds.training.distributed import ProcessGroup
from folds.training.guide import Guide
from folds.training.options import Precision, TrainingRecipe
from folds.training.teacher import StudentTargets
from folds.training.threads import CPUThreads
from models import CTCModel
from registry import InputError

Start = Literal["random", "given", "checkpoint"]
WATCHED_UTTERANCES = {"cpu": 150, "cuda": 600}
"""Approximate number of utterances scored after each epoch, by type of device; all are scored at the end. With 150, the
standard error of the mean distance is 0.4 to 0.7."""


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
    """What a run without a checkpoint starts from: random weights, or the weights that the network already has. With
    "checkpoint", a checkpoint is required."""
    with_dev: bool = False
    """Whether the utterances of dev are among `fitted`."""
    save_minutes: float = 0.0
    """Minutes between checkpoints; 0 for one after each epoch."""
    threads: CPUThreads = field(default_factory=lambda: CPUThreads(torch.get_num_threads()))
    """The CPU threads; by default the current number."""
    loggers: tuple[str, ...] = ()
    """Where metrics go besides metrics.jsonl: names in `LOGGERS`."""
    guide: Guide | None = None
    """A trained model, on `device`; this model learns to spike on the same frames."""
    student_targets: StudentTargets | None = None
    """A teacher's hypotheses for the train split."""
    lease: Lease | None = None
    """The right to write into `folder`; None in the processes of a group that write nothing."""

    def check_lease(self) -> None:
        """Call this before writing. Raises InputError if another process has taken over the run."""
        if self.lease is not None:
            self.lease.check()

    @property
    def precision(self) -> Precision:
        """The autocast precision."""
        return self.recipe.precision

    @property
    def watched(self) -> tuple[Split, np.ndarray]:
        """The utterances scored after each epoch: a split, and indices into it.

        All held-out utterances with `--select best`, otherwise a sample of them; a sample of dev if none are held out;
        none if dev is trained on too, or has no transcripts.
        """
        if self.with_dev or (not len(self.held_out) and self.dataset.dev.tokens is None):
            return self.dataset.dev, np.zeros(0, np.int64)
        split, indices = self.dataset.dev, np.arange(len(self.dataset.dev))
        if len(self.held_out):
            split, indices = self.dataset.train, self.held_out
        if self.recipe.select == "last":
            count = WATCHED_UTTERANCES.get(self.device.type, WATCHED_UTTERANCES["cpu"])
            indices = indices[:: max(1, len(indices) // count)]
        return split, indices

    @property
    def frames_per_batch(self) -> int:
        """Total input frames per batch over all processes."""
        return self.recipe.frames_of_all(self.device.type, self.group.size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as positions in `fitted`."""
        lengths = self.dataset.train.lengths[self.fitted]
        return plan(lengths, frames=self.frames_per_batch, seed=self.seed, epoch=epoch)

    def steps(self, epoch: int) -> int:
        """The steps of an epoch: one per `--accumulate` batches."""
        return -(-len(self.batches(epoch)) // self.recipe.accumulate)


def describe_run(task: TrainingTask, config: dict[str, Any]) -> str:
    """One line that says what is trained, on which data and how. `config` is the run's config.json."""
    recipe, hardware = task.recipe, config["hardware"]
    split, watched = task.watched
    rows = watched if len(watched) else task.fitted
    labels = (split if len(watched) else task.dataset.train).tokens
    processes = task.group.size
    parts = [
        str(task.dataset.root),
        f"{hardware['device_name']} ({task.device})" + (f" in {processes} processes" if processes > 1 else ""),
        recipe.precision,
        str(task.threads),
        f"{config['parameters']:,} parameters",
        f"{task.frames_per_batch:,} frames per batch",
        f"learning rate {recipe.lr:.3g}",
    ]
    if labels is not None:
        parts.append(f"mean reference length {labels.lengths[rows].mean():.1f} (the distance of empty predictions)")
    return ", ".join(parts)


def check_batch_frames(frames: int, split: Split, indices: np.ndarray) -> None:
    """Raise InputError if an utterance at `indices` is longer than `--batch-frames`."""
    longest = indices[split.lengths[indices].argmax()]
    if split.lengths[longest] > frames:
        raise InputError(
            f"--batch-frames {frames}: too few for the longest utterance, {split.ids[longest]}: pass "
            f"{split.lengths[longest]} or more"
        )


def long_enough(model: CTCModel, dataset: Dataset, indices: np.ndarray, skip_bad: bool) -> np.ndarray:
    """The training utterances among `indices` that `model` can fit.

    The others have fewer output frames than their labels need. Raises InputError if there are any, unless `skip_bad`,
    and if nothing is left.
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
