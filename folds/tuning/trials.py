"""Which trial a process works on next: one whose process died, or a new one.

A trial of Optuna's that is running although nobody holds its lease belongs to a process that was killed or stopped. It
is failed, and another trial of Optuna's with the same values continues its runs. Runs are named after the first one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from folds.store.lease import hold, holder_of
from folds.training.signals import Stopped
from folds.tuning.space import Parameter, Space
from folds.tuning.study import StudyPaths

if TYPE_CHECKING:
    import optuna

MAX_DEATHS = 5
"""A trial in which so many processes died is given up: it may be what kills them."""
STOPPED = "stopped"
"""The attribute of a trial whose process was stopped by a signal, which is nobody's fault."""
RANDOM_TRIALS = 10
"""So many trials are drawn at random before the sampler learns from them."""


def run_name(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """The name of the trial's runs."""
    return trial.user_attrs.get("run", f"trial{trial.number:04d}")


def counted(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """All trials but those that others continue."""
    from optuna.trial import TrialState

    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


@contextlib.contextmanager
def next_trial(
    study: optuna.Study, paths: StudyPaths, space: Space, most: int, seed: int, may_begin: bool
) -> Iterator[optuna.Trial | None]:
    """A trial to work on in the block, or None if there is none at present.

    At most `most` are begun, and none unless `may_begin`.
    """
    with contextlib.ExitStack() as stack:
        with paths.turn():
            _fail_abandoned(study, paths)
            _continue_failed(study)
            trial = _ask(study, space, most, seed, may_begin)
            if trial is not None:
                stack.enter_context(hold(paths.trial(run_name(trial)), run_name(trial)))
        try:
            yield trial
        except Stopped:
            if trial is not None:
                trial.set_user_attr(STOPPED, True)
            raise


def others_work(study: optuna.Study) -> bool:
    """Whether a trial is running, in another process or in one that died a moment ago."""
    from optuna.trial import TrialState

    return any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in counted(study))


def _fail_abandoned(study: optuna.Study, paths: StudyPaths) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if holder_of(paths.trial(run_name(trial))) is None:
            study.tell(trial.number, state=TrialState.FAIL)


def _continue_failed(study: optuna.Study) -> None:
    """Queue the trials that failed and that no other continues."""
    from optuna.trial import TrialState

    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    deaths = Counter(run_name(trial) for trial in failed if not trial.user_attrs.get(STOPPED))
    alive = {run_name(trial) for trial in counted(study)}
    for run, trial in {run_name(trial): trial for trial in failed}.items():
        if run not in alive and deaths[run] < MAX_DEATHS:
            study.enqueue_trial(trial.params, user_attrs={"run": run})


def _ask(study: optuna.Study, space: Space, most: int, seed: int, may_begin: bool) -> optuna.Trial | None:
    import optuna
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    if not any(trial.state == TrialState.WAITING for trial in trials):
        # Those that were given up count as well.
        if not may_begin or len({run_name(trial) for trial in trials}) >= most:
            return None
        if not trials and (preset := space.preset_values()) is not None:
            study.enqueue_trial(preset)
    # All processes draw from one sequence: a sampler with one seed in each would draw the same values.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed + len(trials))
    return study.ask({parameter.name: _distribution(parameter) for parameter in space.parameters})


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    import optuna

    if parameter.integer:
        low, high = int(parameter.low), int(parameter.high)
        return optuna.distributions.IntDistribution(low, high, log=parameter.log, step=parameter.step)
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
