"""The runs of a trial: each stage trains folds as `folds.train` does; held-out distances decide what follows."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from folds.data.dataset import Dataset
from folds.store.lease import Held
from folds.store.run_folder import SPLITS, RunFolder, run_folders
from folds.store.schemas import SummaryFile
from folds.training.command_line import parse
from folds.training.config_file import arguments_of
from folds.training.distributed import ProcessGroup
from folds.training.metrics_logger import Cost
from folds.training.presets import device_type
from folds.training.train_fold_model import train_fold_model
from folds.tuning.options import TuneOptions
from folds.tuning.space import Space, Values
from folds.tuning.stages import Stage, goes_on
from folds.tuning.study import StudyPaths
from folds.tuning.trials import counted, run_name
from registry import InputError
from registry.json_files import read_json

if TYPE_CHECKING:
    import optuna

NOTHING_LEARNT = 0.9
"""A first stage whose held-out distance is more than this share of that of empty answers says nothing about a trial: at
first, CTC models answer nothing, whatever their recipe."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """A study's options, and what follows from them."""

    options: TuneOptions
    space: Space
    dataset: Dataset
    stages: list[Stage]
    paths: StudyPaths

    @property
    def unit(self) -> str:
        """What minutes are measured in."""
        return "GPU-minutes" if device_type(self.options.device) == "cuda" else "CPU-minutes"

    def train(
        self, space: Space, values: Values, stage: Stage, name: str, fold: int, runs: Path, start: Path | None = None
    ) -> RunFolder:
        """Train a fold, or what is left of it; `start` is the runs folder of the stage before, for its weights.

        Raises InputError as `train_fold_model` does, and Stopped after a signal.
        """
        own = {
            "data": self.dataset.root,
            "smooth": self.options.smooth,
            "device": self.options.device,
            "runs": runs,
            "name": name,
            "fold": fold,
            "folds": self.options.folds,
            "seed": self.options.seed,
            "minutes": stage.minutes,
            "clock": "wall" if device_type(self.options.device) == "cuda" else "cpu",
            "speakers": stage.speakers,
            "resume": True,
            "skip_bad": self.options.skip_bad,
            "allow_pickle": self.options.allow_pickle,
        }
        if start is not None:
            own["restart_from"] = start
        (model,) = parse([*space.arguments(values), *arguments_of(own)])
        sizes = {"features": self.dataset.features, "classes": self.dataset.alphabet.classes}
        config = dataclasses.replace(model.config, **sizes)
        with self._logged():
            return train_fold_model(model.options, self.dataset, model.name, fold, config, ProcessGroup())

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Training prints to a log: one line per epoch of each of several jobs says nothing on a terminal."""
        with open(self.paths.log, "a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
            if self.options.jobs == 1:
                yield
            else:
                with contextlib.redirect_stderr(log):
                    yield

    def booked(self, study: optuna.Study) -> float:
        """The minutes that the stages of all trials so far should have taken, by their plan."""
        return sum(
            stage.minutes * len(stage.folds)
            for trial in counted(study)
            for stage in self.stages
            if stage.step in trial.intermediate_values
        )

    def spent(self) -> float:
        """The minutes of training that all runs so far did take, up to their last epoch."""
        folders = [folder for runs in self.paths.folder.glob("*/") for folder in run_folders(runs)]
        costs = [Cost.of_run(folder) for folder in folders if folder.timing.exists()]
        cpu = self.unit == "CPU-minutes"
        return sum(cost.cpu_minutes if cpu else cost.wall_minutes or 0.0 for cost in costs)


def run_trial(tuning: Tuning, study: optuna.Study, trial: optuna.Trial) -> None:
    """All stages of a trial, until its distance is not among the best; tells the study.

    A configuration that cannot be trained, because it diverges for example, is told as pruned. Raises its InputError if
    none has been trained so far, since then it is not the configuration's fault.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        _run_stages(tuning, study, trial)
    except UpdateFinishedTrialError:
        print(f"{run_name(trial)}: another process took it over while this one was suspended", flush=True)


def _run_stages(tuning: Tuning, study: optuna.Study, trial: optuna.Trial) -> None:
    from optuna.trial import TrialState

    values = {parameter.name: trial.params[parameter.name] for parameter in tuning.space.parameters}
    for index, stage in enumerate(tuning.stages):
        try:
            distance = _run_stage(tuning, values, index, run_name(trial))
        except InputError as error:
            if not any(other.intermediate_values for other in counted(study)):
                raise
            print(f"{run_name(trial)}: cannot be trained: {error}", flush=True)
            trial.set_user_attr("refused", str(error))
            break
        trial.report(distance, stage.step)
        if index == 0 and trial.number == 0:
            _warn_of_short_stages(distance, tuning.dataset)
        what = f"{run_name(trial)} stage {index + 1} of {len(tuning.stages)}: held-out distance {distance:.3f}"
        if index == len(tuning.stages) - 1:
            print(f"{what}, finished", flush=True)
            study.tell(trial, distance, skip_if_finished=True)
            return
        others = [
            other.intermediate_values[stage.step]
            for other in counted(study)
            if other.number != trial.number and stage.step in other.intermediate_values
        ]
        promoted = goes_on(distance, others) or _begun(tuning, index + 1, run_name(trial))
        better = sum(other > distance for other in others)
        print(f"{what}, better than {better} of {len(others)}: {'goes on' if promoted else 'ends'}", flush=True)
        if not promoted:
            break
    study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    _discard(tuning, run_name(trial))


def _warn_of_short_stages(distance: float, dataset: Dataset) -> None:
    """Say so if the first trial, the preset in most studies, has learnt next to nothing in its first stage."""
    if dataset.train.tokens is None:
        return
    of_empty_answers = dataset.train.tokens.lengths.mean()
    if distance > NOTHING_LEARNT * of_empty_answers:
        print(
            "warning: the first trial learnt next to nothing in its first stage: its held-out distance is "
            f"{distance:.1f}, that of empty answers {of_empty_answers:.1f}, so who goes on is chance: begin another "
            "--study with more --minutes or fewer --trials",
            flush=True,
        )


def _run_stage(tuning: Tuning, values: Values, index: int, name: str) -> float:
    """Train a stage's folds; their mean held-out distance, greedy."""
    stage, distances = tuning.stages[index], []
    for fold in stage.folds:
        start = tuning.paths.stage(index - 1) if index and fold == stage.folds[0] else None
        folder = _train_when_free(tuning, values, index, name, fold, start)
        distance = read_json(folder.summary, SummaryFile).greedy_distance["oof"]
        if distance is None:
            raise InputError(f"{folder.path}: no held-out distance was measured: delete this run's folder")
        distances.append(distance)
    return float(np.mean(distances))


def _train_when_free(
    tuning: Tuning, values: Values, index: int, name: str, fold: int, start: Path | None
) -> RunFolder:
    """Train a fold of a stage.

    The lease of the trial of a machine that died may expire some seconds before that of its run.
    """
    stage, runs = tuning.stages[index], tuning.paths.stage(index)
    while True:
        try:
            return tuning.train(tuning.space, values, stage, name, fold, runs, start)
        except Held:
            time.sleep(5)


def _folders(tuning: Tuning, index: int, name: str) -> list[RunFolder]:
    """The runs of a trial in a stage."""
    options, stage = tuning.options, tuning.stages[index]
    runs = tuning.paths.stage(index)
    return [RunFolder.of(runs, name, fold, options.seed, options.folds) for fold in stage.folds]


def _begun(tuning: Tuning, index: int, name: str) -> bool:
    """Whether a process that died had begun this stage of the trial: then it goes on, whatever came after."""
    return any(folder.begun for folder in _folders(tuning, index, name))


def _discard(tuning: Tuning, name: str) -> None:
    """Delete the weights and predictions of a trial that ended, tens of MB; its metrics and timings stay."""
    for index in range(len(tuning.stages)):
        for folder in _folders(tuning, index, name):
            for path in (*folder.checkpoints, folder.weights, *map(folder.predictions, SPLITS)):
                path.unlink(missing_ok=True)
