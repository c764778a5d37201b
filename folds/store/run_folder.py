"""The folder of one run, runs/<model>/fold<k>/: the one place that knows the names of its files.

    config.json              the resolved configuration, and what a blend must know of the fold model
    metrics.jsonl            one line per epoch; equal for equal runs, byte by byte
    timing.jsonl             clock readings, one line per epoch
    summary.json             greedy distances and CPU-minutes, written with the predictions
    tensorboard/             the same figures for TensorBoard
    checkpoint/              training states, the best weights so far, and the weights that predict
    oof, dev, test.safetensors                     log-probabilities; with the last of them the run is finished
    oof, dev, test.attention_scores.safetensors    a cache of attention scores, made by blends
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models import WEIGHTS_FILE
from registry import InputError

SPLITS = ("oof", "dev", "test")


def member_name(model: str, seed: int, folds: int = 2) -> str:
    """The member's name, its folder under runs/: `gru`, `gru.seed1`; `gru.all` with one fold, nothing held out."""
    return model + (f".seed{seed}" if seed else "") + (".all" if folds == 1 else "")


@dataclass(frozen=True)
class RunFolder:
    """Every file name of the run in `path`.

    >>> RunFolder.of(Path("runs"), "gru", fold=1, seed=2).path.as_posix()
    'runs/gru.seed2/fold1'
    """

    path: Path

    @staticmethod
    def of(runs: Path, model: str, fold: int, seed: int = 0, folds: int = 2) -> RunFolder:
        """The folder of a (model, fold, seed) under `runs`; see `member_name`."""
        return RunFolder(runs / member_name(model, seed, folds) / f"fold{fold}")

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoint"

    @property
    def weights(self) -> Path:
        """The weights that predict, as `models.load` reads them."""
        return self.path / WEIGHTS_FILE

    @property
    def best_weights(self) -> Path:
        """With `--select best`: the weights of the epoch with the lowest held-out distance so far."""
        return self.checkpoints / "best.safetensors"

    def predictions(self, split: str) -> Path:
        """Log-probabilities of split "oof", "dev" or "test"."""
        return self.path / f"{split}.safetensors"

    def attention_scores(self, split: str) -> Path:
        """The cache of attention scores of split "oof", "dev" or "test"."""
        return self.path / f"{split}.attention_scores.safetensors"

    @property
    def begun(self) -> bool:
        """Whether a training was started here."""
        return self.config.exists()

    @property
    def finished(self) -> bool:
        """Whether all predictions are there."""
        return all(self.predictions(split).exists() for split in SPLITS)

    @property
    def member(self) -> str:
        """The name of the member this run is a fold model of: runs of one name are folds of one another."""
        return self.path.parent.name


def run_folders(runs: Path) -> Iterator[RunFolder]:
    """The runs begun under `runs`, by member and fold. Raises InputError where there is no such folder."""
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder of runs: train a model first (python -m folds.train), or pass --runs")
    # Copies such as "fold0.bak" are not runs.
    found = [config.parent for config in runs.glob("*/fold*/config.json") if config.parent.name[4:].isdecimal()]
    for path in sorted(found, key=lambda path: (path.parent.name, int(path.name.removeprefix("fold")))):
        yield RunFolder(path)
