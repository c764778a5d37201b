"""The work of one process on a study: trial after trial until all are finished, then the comparison."""

from __future__ import annotations

import time

from folds.training.presets import device_type
from folds.tuning.comparison import find_winner, train_comparison
from folds.tuning.options import TuneOptions
from folds.tuning.space import make_space
from folds.tuning.stage_runs import Tuning, run_stage
from folds.tuning.stages import plan_stages
from folds.tuning.study import StudyPaths, open_study
from folds.tuning.trials import next_trial

POLL_S = 2.0
"""Seconds after which a process that has nothing to do checks again whether another one died."""


def make_tuning(options: TuneOptions) -> Tuning:
    """The study with these options, and its data. Raises InputError for invalid options."""
    space = make_space(options.model, options.preset, device_type(options.device), options.space, options.fix)
    stages = plan_stages(options.trials, options.minutes)
    return Tuning(options, space, options.open_dataset(), stages, StudyPaths(options.journal))


def work_on(tuning: Tuning) -> None:
    """Work on trials until all are finished, including those of other processes, then on the comparison.

    Raises Stopped after a signal, and InputError if nothing can be trained.
    """
    options = tuning.options
    study = open_study(tuning.paths, options.settings(tuning.dataset, tuning.space))
    while True:
        asked = next_trial(study, tuning.paths, tuning.space, tuning.stages, options.trials, options.seed)
        with asked as (trial, others_work):
            if trial is not None:
                run_stage(tuning, study, trial)
                continue
        if not others_work:
            break
        time.sleep(POLL_S)
    winner = find_winner(tuning, study)
    if winner is not None and not winner.is_preset:
        train_comparison(tuning, winner)
    tuning.paths.finished.touch()
