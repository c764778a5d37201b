"""The training command's options; each line of documentation here is its help text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from folds.data.augmentation import SpecAugment
from folds.data.data_options import StoreOptions
from registry import InputError


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained. A resumed run must have the recipe it was started with."""

    epochs: int = 40
    """Passes over the training folds; warm-up and cosine end with the last one."""
    minutes: float | None = None
    """Instead of epochs: warm-up and cosine end after this many minutes of training."""
    clock: Literal["wall", "cpu"] = "wall"
    """What --minutes counts: wall time, or CPU time of this process, which other load on the machine does not
    stretch."""
    lr: float = 2e-3
    """Peak learning rate."""
    warmup: float = 0.05
    """Fraction of steps used for linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices only."""
    clip: float = 5.0
    """Maximum gradient norm (clipping)."""
    batch_frames: int = 16_000
    """Input frames per batch, padding included."""
    average: float = 0.0
    """Predict with an exponential moving average (EMA) of the weights whose time constant is this fraction of the run
    (0.05 is typical); 0 disables it."""
    accumulate: int = 1
    """Batches per step; their gradients are added."""
    prior: bool = True
    """Initialise the output's biases from the frequency of each label and of the blank."""
    intermediate: float = 0.0
    """Weight w of intermediate CTC on the middle layer; the final CTC loss gets 1 - w."""
    consistency: float = 0.0
    """CR-CTC: train on two views of each batch, with this weight on their agreement (0.2 is usual). Doubles the work
    per step, so halve --batch-frames; works best with larger time masks."""
    augment: Annotated[SpecAugment, tyro.conf.arg(name="SpecAugment", prefix_name=False)] = dataclasses.field(
        default_factory=SpecAugment
    )
    """Masks and changes of speed, drawn anew for each batch."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of autocast; the loss is always computed in float32. auto is bf16 where that is faster (CUDA from
    Ampere on, CPUs with AMX), else fp32. fp16 is for older CUDA devices."""
    select: Literal["last", "best"] = "last"
    """Which weights predict: those at the end of the schedule, or those of the epoch with the lowest held-out distance.
    The latter makes out-of-fold distances too optimistic; config.json records it, and ensemble.blend warns about such
    members."""
    keep: int = 2
    """How many checkpoints to keep; `python -m folds.soup` averages them."""
    limit: int | None = None
    """Train on this many utterances only, for quick experiments; all utterances are still predicted."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_frames", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} {getattr(self, name)}: expected more than 0")
        for name in ("warmup", "average", "intermediate"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: expected a fraction in [0, 1)")
        if self.consistency < 0:
            raise InputError(f"--consistency {self.consistency}: expected 0 or more")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes}: expected more than 0")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: expected at least 1")


@dataclasses.dataclass(frozen=True)
class TrainOptions(StoreOptions):
    """Train models over folds; write out-of-fold, dev and test log-probabilities to the runs folder."""

    model: str = "pblstm"
    """One or more registered models, comma-separated (see `python -m registry`). With several, only model options
    common to all of them can be set."""
    fold: str = "0"
    """A fold, several (0,2), or all."""
    folds: int = 5
    """Number of speaker-disjoint folds. With 1, the model is trained on everything and nothing is held out: a member
    of its own, <model>.all, which cannot be blended because it has no out-of-fold predictions; python -m
    ensemble.decode writes its submission."""
    seed: int = 0
    """Seed of initial weights, batches and masks; each seed has a folder of its own."""
    resume: bool = False
    """Continue a run that was stopped from its last checkpoint; finished runs are skipped."""
    restart_from: Path | None = None
    """Warm restart: start each model from the final weights of the same model, fold and seed in another runs folder
    instead of from random weights. Runs trained there with --select best provide their best weights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads; 0 leaves it to PyTorch. On a busy machine 1 is often fastest."""
    skip_bad: bool = False
    """Leave out training utterances too short for their labels instead of stopping with an error."""
    recipe: TrainingRecipe = dataclasses.field(default_factory=TrainingRecipe)
    """How each model is trained."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"--threads {self.threads}: expected 0 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")
        if self.folds < 1:
            raise InputError(f"--folds {self.folds}: expected 1 or more")
        if self.folds == 1 and self.recipe.select == "best":
            raise InputError("--select best with --folds 1: no utterances are held out to select by; use --select last")

    def fold_list(self) -> list[int]:
        """The folds of `--fold`. Raises InputError for anything but a list of folds in range, or "all"."""
        if self.fold == "all":
            return list(range(self.folds))
        try:
            chosen = [int(part) for part in self.fold.split(",")]
        except ValueError:
            raise InputError(f"--fold {self.fold}: expected a number, numbers separated by commas, or all") from None
        outside = [fold for fold in chosen if not 0 <= fold < self.folds]
        if outside:
            last = self.folds - 1
            raise InputError(f"--fold {outside[0]}: out of range, with --folds {self.folds} it is 0 to {last}")
        return chosen
