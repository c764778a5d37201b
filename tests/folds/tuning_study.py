"""What the tests of `folds.tune` share: a small search space, its stages, and how to take a trial."""

from __future__ import annotations

import contextlib

from folds.tuning import trials
from folds.tuning.space import Parameter, Space
from folds.tuning.stages import plan_stages

SETTINGS = {"model": "lstm_small", "data": "0123", "trials": 8}
STAGES = plan_stages(8, 10)
SPACE = Space("lstm_small", "quick", "cpu", (Parameter("lr", 1e-3, 1e-1, log=True, integer=False),), {})


def ask(study, paths, **options):
    """Only the trial, of `next_trial`."""
    return opened_trial(trials.next_trial(study, paths, SPACE, STAGES, **{"most": 8, "seed": 0, **options}))


@contextlib.contextmanager
def opened_trial(asked):
    with asked as (trial, _):
        yield trial
