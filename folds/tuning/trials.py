"""Which trial a process works on next: one whose process died, one that advances to its next stage, or a new one.

Each stage of a trial is an Optuna trial of its own, which ends with the stage, so that the sampler learns from waiting
trials, too. An Optuna trial that is running although no process holds its lease belongs to a process that was killed or
stopped. It is marked as failed, and another one with the same values continues its runs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from folds.store.lease import hold, holder_of
from folds.training.signals import Stopped
from folds.tuning.space import Parameter, Space
from folds.tuning.stages import Stage, best_first, trials_per_stage
from folds.tuning.study import StudyPaths

if TYPE_CHECKING:
    import optuna

MAX_DEATHS = 5
"""A trial is given up once this many processes have died in it: it may be what kills them."""
STOPPED = "stopped"
"""The attribute of a trial whose process was stopped by a signal, which does not count as a death."""
RUN = "run"
"""The attribute with the name of the trial's runs."""
STAGE = "stage"
"""The attribute with the index of the stage that a trial trains; a trial without it trains the first."""
RANDOM_TRIALS = 10
"""Number of trials that are drawn at random before the sampler learns from them."""


def run_name(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """The name of the trial's runs."""
    return trial.user_attrs.get(RUN, f"trial{trial.number:04d}")


def stage_index(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """The index of the stage that the trial trains."""
    return trial.user_attrs.get(STAGE, 0)


def latest_stages(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials, each in its latest stage that did not fail."""
    from optuna.trial import TrialState

    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    return list({run_name(trial): trial for trial in trials}.values())


@dataclass(frozen=True)
class Rung:
    """What is known about a stage."""

    distances: dict[str, float]
    """The held-out distances of the trials that have finished it, the oldest trial first."""
    gone_on: frozenset[str]
    """The trials that have advanced to the next stage."""


def rungs(study: optuna.Study, stages: Sequence[Stage]) -> list[Rung]:
    """What is known about each stage."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    found = []
    for index, stage in enumerate(stages):
        reported = {
            run_name(trial): trial.intermediate_values[stage.step]
            for trial in ended
            if stage.step in trial.intermediate_values
        }
        distances = {run: reported[run] for run in dict.fromkeys(map(run_name, trials)) if run in reported}
        found.append(Rung(distances, frozenset(run_name(trial) for trial in trials if stage_index(trial) > index)))
    return found


@contextlib.contextmanager
def next_trial(
    study: optuna.Study, paths: StudyPaths, space: Space, stages: Sequence[Stage], most: int, seed: int
) -> Iterator[tuple[optuna.Trial | None, bool]]:
    """(a trial to work on in the block or None if there is none, whether there may be one later).

    At most `most` trials of the study are started.
    """
    with contextlib.ExitStack() as stack:
        with paths.turn():
            _fail_abandoned(study, paths)
            _continue_failed(study)
            # Checked first: a process that finishes its trial after this may leave one that advances.
            working = _working(study, paths)
            trial = _ask(study, paths, space, stages, most, seed)
            if trial is not None:
                stack.enter_context(hold(paths.trial(run_name(trial)), run_name(trial)))
        try:
            yield trial, working
        except Stopped:
            if trial is not None:
                trial.set_user_attr(STOPPED, True)
            raise


def _working(study: optuna.Study, paths: StudyPaths) -> bool:
    """Whether a trial is being trained, by another process or by one that died a moment ago."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    if any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials):
        return True
    # A process that is about to leave its trial may still hold its lease.
    return any(holder_of(paths.trial(run)) is not None for run in set(map(run_name, trials)))


def _fail_abandoned(study: optuna.Study, paths: StudyPaths) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if holder_of(paths.trial(run_name(trial))) is None:
            study.tell(trial.number, state=TrialState.FAIL)


def _continue_failed(study: optuna.Study) -> None:
    """Queue the failed trials that no other one continues yet."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    deaths = Counter(
        run_name(trial) for trial in trials if trial.state == TrialState.FAIL and not trial.user_attrs.get(STOPPED)
    )
    for run, latest in {run_name(trial): trial for trial in trials}.items():
        if latest.state == TrialState.FAIL and deaths[run] < MAX_DEATHS:
            _queue(study, latest, stage_index(latest))


def _queue(study: optuna.Study, trial: optuna.trial.FrozenTrial, stage: int) -> None:
    """Queue a stage of a trial that was started before."""
    study.enqueue_trial(trial.params, user_attrs={RUN: run_name(trial), STAGE: stage})


def _ask(
    study: optuna.Study, paths: StudyPaths, space: Space, stages: Sequence[Stage], most: int, seed: int
) -> optuna.Trial | None:
    import optuna
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    # Abandoned trials count as well.
    begun = set(map(run_name, trials))
    new = False
    if not any(trial.state == TrialState.WAITING for trial in trials):
        if len(begun) < most:
            new = True
            if not trials and (preset := space.preset_values()) is not None:
                study.enqueue_trial(preset)
        else:
            chosen = _next_to_go_on(study, stages)
            if chosen is None or holder_of(paths.trial(chosen[0])) is not None:
                return None
            run, stage = chosen
            _queue(study, next(trial for trial in trials if run_name(trial) == run), stage)
    # All processes draw from one sequence: samplers with the same seed in each would draw the same values.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed + len(trials))
    trial = study.ask({parameter.name: _distribution(parameter) for parameter in space.parameters})
    if new:
        names = (f"trial{number:04d}" for number in itertools.count())
        trial.set_user_attr(RUN, next(name for name in names if name not in begun))
    return trial


def _next_to_go_on(study: optuna.Study, stages: Sequence[Stage]) -> tuple[str, int] | None:
    """A trial that can advance, and the index of its next stage; None without one. All trials must have started."""
    at_work = [stage_index(trial) for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]
    for index, rung in enumerate(rungs(study, stages[:-1])):
        if index in at_work:
            return None
        for run in best_first(rung.distances)[: trials_per_stage(len(rung.distances))[1]]:
            if run not in rung.gone_on:
                return run, index + 1
    return None


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    import optuna

    if parameter.integer:
        low, high = int(parameter.low), int(parameter.high)
        return optuna.distributions.IntDistribution(low, high, log=parameter.log, step=parameter.step)
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
