"""What the winner gains over the preset: full runs of both, on folds that no trial was judged on and on dev."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from folds.competition.bootstrap import Interval, paired_bootstrap
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.lease import Held
from folds.store.run_folder import RunFolder
from folds.training.predict import greedy_distances
from folds.tuning.space import Space, Values
from folds.tuning.stage_runs import Tuning
from folds.tuning.stages import COMPARED_FOLDS
from folds.tuning.trials import latest_stages, run_name

if TYPE_CHECKING:
    import optuna

PRESET = "preset"
"""The name of the preset's runs."""


@dataclass(frozen=True)
class Winner:
    """The trial with the lowest held-out distance in the last stage."""

    name: str
    values: Values
    is_preset: bool
    """Whether its values are the preset's."""


@dataclass(frozen=True)
class Gain:
    """Differences in mean greedy edit distance, negative if the winner is better, with paired intervals."""

    held_out: Interval
    dev: Interval | None
    """None for data without transcripts of dev."""


def find_winner(tuning: Tuning, study: optuna.Study) -> Winner | None:
    """The best trial among those that finished the last stage; None if there are none."""
    from optuna.trial import TrialState

    finished = [trial for trial in latest_stages(study) if trial.state == TrialState.COMPLETE]
    if not finished:
        return None
    best = min(finished, key=lambda trial: trial.value or 0.0)
    same = not tuning.space.fixed and best.params == tuning.space.preset_values()
    return Winner(run_name(best), dict(best.params), same)


def recipe_of(tuning: Tuning, winner: Winner) -> dict[str, Any]:
    """The options of the winner's full run, for `folds.train --config`."""
    space, full = tuning.space, tuning.stages[-1]
    clock = "cpu" if tuning.unit == "CPU-minutes" else "wall"
    named: dict[str, Any] = {"model": space.model, "preset": space.preset}
    if tuning.options.smooth:
        named["smooth"] = tuning.options.smooth
    return {**named, **space.fixed, **winner.values, "minutes": full.minutes, "clock": clock}


def train_comparison(tuning: Tuning, winner: Winner) -> None:
    """Train the runs to compare, each unless another process is training it, until all are finished."""
    full = tuning.stages[-1]
    plain = Space(tuning.space.model, tuning.space.preset, tuning.space.device, (), {})
    todo = list(itertools.product(((winner.name, tuning.space, winner.values), (PRESET, plain, {})), COMPARED_FOLDS))
    while todo:
        waiting = []
        for (name, space, values), fold in todo:
            try:
                tuning.train(space, values, full, name, fold, tuning.paths.compare)
            except Held:
                waiting.append(((name, space, values), fold))
        if waiting:
            time.sleep(5)
        todo = waiting


def measure_gain(tuning: Tuning, winner: Winner) -> Gain:
    """The winner's distances minus the preset's, paired by utterance, with intervals over speakers."""
    ours, theirs = ([_fold_model(tuning, name, fold) for fold in COMPARED_FOLDS] for name in (winner.name, PRESET))
    dataset = tuning.dataset
    pairs = [(_distances(a, "oof", dataset), _distances(b, "oof", dataset)) for a, b in zip(ours, theirs, strict=True)]
    winners, presets = (np.concatenate(distances) for distances in zip(*pairs, strict=True))
    held_out = paired_bootstrap(winners, presets, [speaker for model in ours for speaker in _speakers(model, dataset)])
    if dataset.dev.tokens is None:
        return Gain(held_out, None)
    # On dev, the distances of an utterance are averaged over folds: they are not independent.
    ours_dev, theirs_dev = (
        np.mean([_distances(model, "dev", dataset) for model in models], axis=0) for models in (ours, theirs)
    )
    return Gain(held_out, paired_bootstrap(ours_dev, theirs_dev, dataset.dev.groups))


def _fold_model(tuning: Tuning, name: str, fold: int) -> FoldModel:
    options = tuning.options
    return read_fold_model(RunFolder.of(tuning.paths.compare, name, fold, options.seed, options.folds))


def _distances(model: FoldModel, split: str, dataset: Dataset) -> np.ndarray:
    """Greedy edit distances `(N,)`."""
    return greedy_distances(model.load(split), dataset.split(split))


def _speakers(model: FoldModel, dataset: Dataset) -> list[str]:
    """The speaker of each held-out utterance."""
    speaker_of = dict(zip(dataset.train.ids, dataset.train.groups, strict=True))
    return [speaker_of[utterance] for utterance in model.load("oof").ids]
