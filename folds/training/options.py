"""The training command's options; each line of documentation here is its help text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from folds.data.augmentation import SpecAugment
from registry import InputError


@dataclasses.dataclass(frozen=True)
class TrainingRecipe:
    """How a member is fitted. A run that is resumed must have the recipe it was begun with."""

    epochs: int = 40
    """Passes over the training folds; warm-up and cosine are planned to end with the last."""
    minutes: float | None = None
    """Instead of epochs: plan warm-up and cosine to end after so many minutes of training."""
    clock: Literal["wall", "cpu"] = "wall"
    """What --minutes counts: time, or CPU time of this process, which other work on the machine does not stretch."""
    lr: float = 2e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's, on matrices only."""
    clip: float = 5.0
    """Largest gradient norm."""
    batch_frames: int = 16_000
    """Padded input frames a batch."""
    average: float = 0.0
    """Predict from an exponential moving average of the weights that looks back over so large a share of the run."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    prior: bool = True
    """Start the output's biases from how often each label, and the blank, is to be expected."""
    intermediate: float = 0.0
    """Weight of CTC on the middle layer; the output's gets the rest."""
    consistency: float = 0.0
    """CR-CTC: train on two views of each batch, with so much weight on their agreement (0.2 is usual). Twice the work a
    step, so halve --batch-frames; it wants larger time masks."""
    augment: tyro.conf.OmitArgPrefixes[SpecAugment] = SpecAugment()
    """SpecAugment."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast; the loss is in float32 in any case. auto is bf16 where that is faster (CUDA from Ampere on, CPUs with
    AMX), else fp32. fp16 is for older CUDA."""
    select: Literal["last", "best"] = "last"
    """Which weights predict: those at the end of the schedule, or of the epoch with the best held-out distance. The
    latter flatters OOF, and the member says so."""
    keep: int = 2
    """Checkpoints kept; `python -m folds.soup` averages them."""
    limit: int | None = None
    """Fit on the first so many training utterances only, to try things out; predictions stay complete."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_frames", "accumulate", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if not (self.lr > 0 and 0 <= self.warmup < 1 and self.clip > 0 and 0 <= self.intermediate < 1):
            raise InputError("--lr and --clip must be above 0, --warmup and --intermediate from 0 to below 1")
        if self.consistency < 0:
            raise InputError(f"--consistency {self.consistency}: expected 0 or more")
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"--minutes {self.minutes}: expected more than 0")
        if not 0 <= self.average < 1:
            raise InputError(f"--average {self.average}: expected a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: expected at least 1")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Train models over folds; write out-of-fold, dev and test log-probabilities to the store."""

    data: Path | None = None
    """The competition's folder; else the environment variable HW3P2_DATA, else the demo's folder."""
    model: str = "pblstm"
    """A registered model, or several: a,b (see python -m registry)."""
    fold: str = "0"
    """A fold, several (0,2), or all."""
    folds: int = 5
    """Speaker-disjoint folds the training data are cut into. With 1 all are fitted and none held out: a member of its
    own, <model>.all, which no blend takes, since nothing is out of its fold; ensemble.decode writes its submission."""
    runs: Path = Path("runs")
    """The store."""
    seed: int = 0
    """Seeds initial weights, batches and masks; a member of another seed gets a folder of its own."""
    resume: bool = False
    """Go on from the last checkpoint of a run that was stopped; finished runs are skipped."""
    restart_from: Path | None = None
    """Another store: begin each member from the weights that the same member, finished, predicts with there, rather
    than at random. A late restart: with --select best there, from its best."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads; 0 leaves it to PyTorch. On a busy machine 1 is often fastest."""
    skip_bad: bool = False
    """Leave out utterances too short for their labels, instead of stopping."""
    allow_pickle: bool = False
    """Unpickle the object arrays of the F18 to F21 formats. Only for files you trust: a pickle can run any code."""
    recipe: tyro.conf.OmitArgPrefixes[TrainingRecipe] = TrainingRecipe()
    """How a member is fitted."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"--threads {self.threads}: expected 0 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")
        if self.folds < 1:
            raise InputError(f"--folds {self.folds}: expected 1 or more")
        if self.folds == 1 and self.recipe.select == "best":
            raise InputError("--select best with --folds 1: nothing is held out to select by; say --select last")

    def fold_list(self) -> list[int]:
        """The folds asked for. Raises InputError for what is none, or out of range."""
        if self.fold == "all":
            return list(range(self.folds))
        try:
            chosen = [int(part) for part in self.fold.split(",")]
        except ValueError:
            raise InputError(f"--fold {self.fold}: expected a number, numbers with commas between, or all") from None
        outside = [fold for fold in chosen if not 0 <= fold < self.folds]
        if outside:
            last = self.folds - 1
            raise InputError(f"--fold {outside[0]}: out of range, with --folds {self.folds} it is 0 to {last}")
        return chosen
