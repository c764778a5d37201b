"""The folder of one run, runs/<name>/fold<k>/, and the names of all its files, which are defined only here.

    config.json              the resolved configuration, and what a blend needs to know about the fold model
    metrics.jsonl            one line per epoch; equal runs write equal bytes
    timing.jsonl             timings, one line per epoch
    summary.json             greedy distances, CPU and wall minutes, frames/s, written with the predictions
    attempts.jsonl           what folds.launch did for the run: submitted, started, ended, where and why
    log.txt                  what its processes printed, if folds.launch started them
    tensorboard/             the metrics and timings for TensorBoard
    trackers.json            the run's ids in other trackers (`--log`)
    checkpoint/              training states, the best weights so far, and the weights used for prediction
    oof, dev, test.safetensors                     log-probabilities; the run is finished once all three exist
    oof, dev, test.attention_scores.safetensors    a cache of attention scores, written by blends
    lease-*.json             the process that is training the run; see folds.store.lease
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models import WEIGHTS_FILE
from registry import InputError
from registry.files import exists, listed, read_regular

SPLITS = ("oof", "dev", "test")


REFIT = ".all"
"""Name suffix of a member that is trained on all training utterances."""
SOUP = ".soup"
"""Name suffix of a member whose weights are the mean of a run's last checkpoints."""
DELAY = ".delay"
"""Name suffix, followed by the number of frames, of a member that reads delayed features; see `folds.delay`."""
ADAPTED = ".adapted"
"""Name suffix of a member that is adapted to the speakers it predicts; see `folds.adapt`."""
# Patterns of the suffixes that may follow the name of the trained run.
_DELAYED = rf"{re.escape(DELAY)}\d+"
_ADAPTED = re.escape(ADAPTED)
_SOUP = re.escape(SOUP)
MAX_NAME = 64
"""Maximum length of a name, so that folders and table columns stay readable."""


def member_name(name: str, seed: int, folds: int = 2, with_dev: bool = False) -> str:
    """The member's name, its folder under runs/: `gru`, `gru.seed1`; `gru.all` with one fold, nothing held out.

    `name` is the model's name, or the one given by `--name`. `gru.all-dev` is trained on dev too.
    """
    trained_on = f"{REFIT}-dev" if with_dev else REFIT if folds == 1 else ""
    return name + (f".seed{seed}" if seed else "") + trained_on


def check_name(name: str) -> None:
    """Raise InputError for a name that is not a plain folder name, or contains a suffix that the store itself adds.

    Glob characters are rejected too, since `--members` takes globs over names.
    """
    if not re.fullmatch(rf"[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{MAX_NAME - 1}}}", name):
        raise InputError(f"--name {name!r}: expected 1 to {MAX_NAME} letters, digits or _ . + -, not a dot first")
    if reserved := re.search(r"\.(all|all-dev|soup|adapted|seed\d+|delay\d+)(?=\.|$)", name):
        raise InputError(f"--name {name}: names with {reserved[0]} are reserved: choose another")


@dataclass(frozen=True)
class RunFolder:
    """The names of all files of the run in `path`.

    >>> RunFolder.of(Path("runs"), "gru", fold=1, seed=2).path.as_posix()
    'runs/gru.seed2/fold1'
    """

    path: Path

    @staticmethod
    def of(runs: Path, name: str, fold: int, seed: int = 0, folds: int = 2, with_dev: bool = False) -> RunFolder:
        """The folder of a (model or name, fold, seed) under `runs`; see `member_name`."""
        return RunFolder(runs / member_name(name, seed, folds, with_dev) / f"fold{fold}")

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
    def attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def tracker_ids(self) -> Path:
        """The run's ids in trackers, by the tracker's name."""
        return self.path / "trackers.json"

    @property
    def weights(self) -> Path:
        """The weights used for prediction, in the format that `models.load` reads."""
        return self.path / WEIGHTS_FILE

    @property
    def weights_hash(self) -> str:
        """Hash of the weights used for prediction, 16 hexadecimal digits."""
        return hashlib.sha256(read_regular(self.weights)).hexdigest()[:16]

    @property
    def best_weights(self) -> Path:
        """With `--select best`: the weights of the epoch with the lowest held-out distance so far."""
        return self.path / "checkpoint" / "best.safetensors"

    def checkpoint(self, step: int) -> Path:
        """The training state after `step` steps."""
        return self.path / "checkpoint" / f"step{step:08d}.safetensors"

    @property
    def checkpoints(self) -> list[Path]:
        """The existing training states, oldest first."""
        return listed(self.path / "checkpoint", "step*.safetensors")

    def predictions(self, split: str) -> Path:
        """Log-probabilities of split "oof", "dev" or "test"."""
        return self.path / f"{split}.safetensors"

    @property
    def results(self) -> tuple[Path, ...]:
        """The files of a finished run that others need; not checkpoints, logs and caches."""
        predictions = (self.predictions(split) for split in SPLITS)
        return (self.config, self.metrics, self.timing, self.summary, self.weights, *predictions)

    def attention_scores(self, split: str) -> Path:
        """The cache of attention scores of split "oof", "dev" or "test"."""
        return self.path / f"{split}.attention_scores.safetensors"

    @property
    def begun(self) -> bool:
        """Whether a run was started in this folder."""
        return exists(self.config)

    @property
    def finished(self) -> bool:
        """Whether the predictions of all splits exist."""
        return all(exists(self.predictions(split)) for split in SPLITS)

    @property
    def has_results(self) -> bool:
        """Whether a run that was started here reached its first checkpoint, or wrote predictions."""
        return bool(self.checkpoints) or any(exists(self.predictions(split)) for split in SPLITS)

    def discard_beginning(self) -> None:
        """Delete what a run without results left, so that another one can start here, perhaps with other settings."""
        files = (self.config, self.metrics, self.timing, self.summary, self.weights, self.best_weights)
        for path in (*files, self.tracker_ids):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.tensorboard)

    @property
    def member(self) -> str:
        """The name of the member whose fold model this run trains, and of the folder that holds all its folds."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The run's name in a store, "gru.seed1/fold0"."""
        return f"{self.member}/{self.path.name}"

    @property
    def title(self) -> str:
        """The run's name in messages, "gru.seed1 fold 0"."""
        return f"{self.member} {self.path.name.replace('fold', 'fold ')}"

    @property
    def refit_of(self) -> str:
        """The member with the same model and seed that holds out folds: `gru` for `gru.all` and for `gru.all-dev`."""
        stem = re.sub(rf"({_SOUP}|{_ADAPTED}|{_DELAYED})*$", "", self.member)
        return stem.removesuffix(f"{REFIT}-dev").removesuffix(REFIT) + self.member[len(stem) :]

    @property
    def soup(self) -> RunFolder:
        """The folder of this run's soup, a fold model with the mean of its last checkpoints' weights."""
        return self._beside(self.member + SOUP)

    @property
    def adapted(self) -> RunFolder:
        """The folder of this run's network adapted to the speakers it predicts."""
        return self._beside(self.member + ADAPTED)

    @property
    def trained_run(self) -> RunFolder:
        """The folder of the run whose weights were trained: a different one if this one is adapted or delayed."""
        return self._beside(re.sub(rf"({_ADAPTED}|{_DELAYED})+$", "", self.member))

    def delayed(self, frames: int) -> RunFolder:
        """The folder of this run's network with features delayed by `frames`."""
        return self._beside(f"{self.member}{DELAY}{frames}")

    @property
    def undelayed(self) -> RunFolder:
        """The folder of the run whose network this one uses: a different one if this one's features are delayed."""
        return self._beside(re.sub(rf"{_DELAYED}$", "", self.member))

    def _beside(self, member: str) -> RunFolder:
        """The folder of the same fold of another member of the store; this folder for its own member."""
        if member == self.member:  # which is "" where `path` has only one part
            return self
        return RunFolder(self.path.parent.with_name(member) / self.path.name)


def run_folders(runs: Path) -> Iterator[RunFolder]:
    """The runs started under `runs`, by member and fold. Raises InputError if there is no such folder."""
    if not (exists(runs) and runs.is_dir()):
        raise InputError(f"{runs}: no such runs folder: train a model first (python -m folds.train), or pass --runs")
    return (folder for folder in folders_of_runs(runs) if folder.begun)


def folders_of_runs(runs: Path) -> Iterator[RunFolder]:
    """The folders under `runs` that are named like a run's, by member and fold, whatever is in them."""
    paths = [path for member in listed(runs, "*") for path in listed(member, "fold*")]
    # Copies such as "fold0.bak" are not runs.
    paths = [path for path in paths if path.name.removeprefix("fold").isdecimal()]
    for path in sorted(paths, key=lambda path: (path.parent.name, int(path.name.removeprefix("fold")))):
        yield RunFolder(path)
