"""The runs of a trial: each stage trains folds as `folds.train` does; held-out distances decide which trials go on."""

from __future__ import annotations

import contextlib
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
from folds.training.cost import Cost
from folds.training.distributed import ProcessGroup
from folds.training.presets import device_type
from folds.training.resumption import StartedOtherwise
from folds.training.train_fold_model import train_fold_model
from folds.tuning.options import TuneOptions
from folds.tuning.space import Space, Values
from folds.tuning.stages import Stage, best_first, trials_per_stage
from folds.tuning.study import StudyPaths
from folds.tuning.trials import run_name, rungs, stage_index
from registry import InputError
from registry.errors import MachineFault
from registry.json_files import read_json

if TYPE_CHECKING:
    import optuna

NOTHING_LEARNT = 0.9
"""A first stage says nothing about a trial if its held-out distance is more than this fraction of the distance of empty
predictions: at first, CTC models predict nothing, whatever their recipe."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """A study's options, and what is derived from them."""

    options: TuneOptions
    space: Space
    dataset: Dataset
    stages: list[Stage]
    paths: StudyPaths

    @property
    def unit(self) -> str:
        """The unit in which minutes are measured."""
        return "GPU-minutes" if device_type(self.options.device) == "cuda" else "CPU-minutes"

    def train(
        self, space: Space, values: Values, stage: Stage, name: str, fold: int, runs: Path, start: Path | None = None
    ) -> RunFolder:
        """Train a fold, or finish it; `start` is the runs folder of the stage before, whose weights it starts from.

        Raises InputError like `train_fold_model`, and Stopped after a signal.
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
        config = model.config_for(self.dataset)
        with self._logged():
            return train_fold_model(model.options, self.dataset, model.name, fold, config, ProcessGroup())

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Let training print to a log: one line per epoch from each of several jobs is of no use on a terminal."""
        with open(self.paths.log, "a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
            if self.options.jobs == 1:
                yield
            else:
                with contextlib.redirect_stderr(log):
                    yield

    def spent(self) -> float:
        """The minutes of training that all runs have taken so far, up to their last epoch."""
        folders = [folder for runs in self.paths.folder.glob("*/") for folder in run_folders(runs)]
        costs = [Cost.of_run(folder) for folder in folders if folder.timing.exists()]
        cpu = self.unit == "CPU-minutes"
        return sum(cost.cpu_minutes if cpu else cost.wall_minutes or 0.0 for cost in costs)


def run_stage(tuning: Tuning, study: optuna.Study, trial: optuna.Trial) -> None:
    """Train the current stage of a trial, and report its result to the study.

    A configuration that cannot be trained, for example because it diverges, is reported as pruned. Raises its
    InputError if it is the preset's and none has been trained so far, since then it is not the configuration's fault,
    and StartedOtherwise if another study has trained a run with its name.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        _run_stage(tuning, study, trial)
    except UpdateFinishedTrialError:
        print(f"{run_name(trial)}: another process took it over while this one was suspended", flush=True)


def _run_stage(tuning: Tuning, study: optuna.Study, trial: optuna.Trial) -> None:
    from optuna.trial import TrialState

    index, name = stage_index(trial), run_name(trial)
    values = {parameter.name: trial.params[parameter.name] for parameter in tuning.space.parameters}
    if index:
        print(f"{name} advances to stage {index + 1} of {len(tuning.stages)}", flush=True)
    before = rungs(study, tuning.stages)
    if index == 1 and name == best_first(before[0].distances)[0] and tuning.space.preset_values() is None:
        # Without the preset, one trial says little: its values may be at fault. By now all have ended the first stage.
        _warn_of_short_stages("even the best trial", before[0].distances[name], tuning.dataset)
    for stage, rung in zip(tuning.stages[:index], before[:index], strict=True):
        trial.report(rung.distances[name], stage.step)
    try:
        distance = _train_stage(tuning, values, index, name)
    except (MachineFault, StartedOtherwise):
        raise  # not the configuration's fault; and a run that was started otherwise is not this study's to delete
    except InputError as error:
        # If the preset fails, perhaps nothing can be trained. If other values fail, it may be because of them.
        if _is_preset(tuning, trial) and not any(rung.distances for rung in rungs(study, tuning.stages)):
            raise
        print(f"{name}: cannot be trained: {error}", flush=True)
        trial.set_user_attr("refused", str(error))
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        _discard_trial(tuning, name)
        return
    trial.report(distance, tuning.stages[index].step)
    if index == 0 and _is_preset(tuning, trial):
        _warn_of_short_stages("the preset", distance, tuning.dataset)
    if index == len(tuning.stages) - 1:
        study.tell(trial, distance, skip_if_finished=True)
    else:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    distances = rungs(study, tuning.stages)[index].distances
    rank = 1 + sum(other < distance for other in distances.values())
    print(
        f"{name} stage {index + 1} of {len(tuning.stages)}: held-out distance {distance:.3f}, "
        f"place {rank} of {len(distances)}",
        flush=True,
    )
    _discard(tuning, study)


def _is_preset(tuning: Tuning, trial: optuna.Trial) -> bool:
    """Whether a trial has the preset's values."""
    return trial.params == tuning.space.preset_values()


def _warn_of_short_stages(subject: str, distance: float, dataset: Dataset) -> None:
    """Warn if a trial that should have learnt something in its first stage has learnt next to nothing."""
    if dataset.train.tokens is None:
        return
    of_empty_ones = dataset.train.tokens.lengths.mean()
    if distance > NOTHING_LEARNT * of_empty_ones:
        print(
            f"warning: {subject} learnt next to nothing in its first stage: its held-out distance is "
            f"{distance:.1f}, that of empty predictions {of_empty_ones:.1f}, so which trials advance is chance: start "
            "another --study with more --minutes or fewer --trials",
            flush=True,
        )


def _train_stage(tuning: Tuning, values: Values, index: int, name: str) -> float:
    """Train a stage's folds; returns the mean of their greedy held-out distances."""
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
    """Train a fold of a stage, once its run is free.

    After a machine has died, the lease of its trial may expire some seconds before the lease of its run.
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


def _discard(tuning: Tuning, study: optuna.Study) -> None:
    """Delete the weights and predictions (tens of MB) of trials that cannot go on; metrics and timings stay."""
    places = trials_per_stage(tuning.options.trials)[1:]
    for rung, most in zip(rungs(study, tuning.stages), places, strict=False):
        for name in best_first(rung.distances)[most:]:
            _discard_trial(tuning, name)


def _discard_trial(tuning: Tuning, name: str) -> None:
    for index in range(len(tuning.stages)):
        for folder in _folders(tuning, index, name):
            for path in (*folder.checkpoints, folder.weights, *map(folder.predictions, SPLITS)):
                path.unlink(missing_ok=True)
