"""The study of `folds.tune`: its plan, trials whose process died, and the journal on disk."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import signal
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tuning_study import SETTINGS, SPACE, STAGES, ask

from folds.data.cache import load_dataset
from folds.store.lease import Held, hold
from folds.store.run_folder import RunFolder
from folds.training.signals import Stopped
from folds.tuning import stage_runs, study, trials
from folds.tuning.comparison import Winner, recipe_of
from folds.tuning.options import TuneOptions
from folds.tuning.space import Parameter, Space
from folds.tuning.stages import (
    COMPARED_FOLDS,
    JUDGED_FOLDS,
    REDUCTION,
    plan_stages,
    trials_per_stage,
)
from folds.tuning.study import open_study
from registry import InputError


def test_stages_grow_by_the_reduction_and_the_plan_fits_the_minutes():
    stages = plan_stages(40, 480)
    full = stages[-1]
    assert [stage.step for stage in stages] == [1, 4, 16] and [stage.speakers for stage in stages] == [0.25, 0.5, 1.0]
    assert [full.minutes / stage.minutes for stage in stages] == pytest.approx([16, 4, 1])
    assert full.folds == JUDGED_FOLDS and not {*JUDGED_FOLDS} & {*COMPARED_FOLDS}
    # A quarter of 40 goes on, and a quarter of those, rounded up; the finalists and the comparison have two folds.
    assert 40 * stages[0].minutes + 10 * stages[1].minutes + (3 * 2 + 4) * full.minutes == pytest.approx(480)


def others_work(study, paths, **options):
    with trials.next_trial(study, paths, SPACE, STAGES, **{"most": 8, "seed": 0, **options}) as (trial, others):
        assert trial is None
        return others


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 8, 23])
def test_the_best_quarter_goes_on_when_all_have_ended_a_stage(paths, count, workers):
    """Whatever the order in which processes end their trials."""
    opened, random = open_study(paths, SETTINGS), np.random.default_rng(count)
    working: list[tuple[contextlib.ExitStack, optuna.Trial]] = []
    distances: list[dict[str, float]] = [{}, {}, {}]
    while True:
        stack = contextlib.ExitStack()
        trial, others = stack.enter_context(trials.next_trial(opened, paths, SPACE, STAGES, most=count, seed=0))
        if trial is not None:
            working.append((stack, trial))
        elif not others:
            break
        if trial is None or len(working) == workers:
            stack, trial = working.pop(int(random.integers(len(working))))
            name, index, last = trials.run_name(trial), trials.stage_index(trial), len(STAGES) - 1
            assert name not in distances[index]
            distances[index][name] = value = float(random.integers(1, 15))
            trial.report(value, STAGES[index].step)
            opened.tell(trial, value if index == last else None, state=None if index == last else TrialState.PRUNED)
            stack.close()
    assert not working and [*map(len, distances)] == trials_per_stage(count)
    assert distances[0].keys() == {f"trial{number:04d}" for number in range(count)}
    for known, gone_on in itertools.pairwise(distances):
        # By sorting: of equal distances, that of the trial that began first is the best.
        ranked = [name for _, name in sorted((distance, name) for name, distance in known.items())]
        assert {*gone_on} == {*ranked[: math.ceil(len(known) / REDUCTION)]}


def test_a_trial_whose_process_died_is_failed_once_and_continued_under_its_name(paths):
    first, second = (open_study(paths, SETTINGS) for _ in range(2))
    with ask(first, paths) as alive:
        # As a process leaves it that was killed: running, and nobody holds its lease.
        with ask(second, paths) as other:
            other.report(5.0, 1)
            values = other.params
        with ask(second, paths) as continued:
            assert trials.run_name(continued) == trials.run_name(other) == "trial0001"
            assert continued.number == 2 and continued.params == values
            with ask(first, paths) as new:
                assert trials.run_name(new) == "trial0002"
                states = [trial.state for trial in first.get_trials()]
                assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING]
                assert [trial.number for trial in trials.latest_stages(second)] == [0, 2, 3]
                assert not any(rung.distances for rung in trials.rungs(second, STAGES))
        assert alive.number == 0 and alive.params["lr"] == 0.002  # the preset comes first


def test_no_more_trials_are_begun_than_asked_for(paths):
    opened = open_study(paths, SETTINGS)
    for _ in range(3):
        with ask(opened, paths, most=3) as trial:
            opened.tell(trial, 1.0)
    assert not others_work(opened, paths, most=3)


def test_a_trial_that_died_in_a_later_stage_is_continued_there(paths):
    opened = open_study(paths, SETTINGS)
    with ask(opened, paths, most=1) as trial:
        trial.report(9.0, 1)
        opened.tell(trial, state=TrialState.PRUNED)
    with ask(opened, paths, most=1) as killed:
        assert (trials.run_name(killed), trials.stage_index(killed)) == ("trial0000", 1)
        killed.report(8.0, 4)  # reported, but not told
    with ask(opened, paths, most=1) as continued:
        assert (trials.run_name(continued), trials.stage_index(continued), continued.number) == ("trial0000", 1, 2)
        assert [rung.distances for rung in trials.rungs(opened, STAGES)] == [{"trial0000": 9.0}, {}, {}]
        assert [rung.gone_on for rung in trials.rungs(opened, STAGES)] == [{"trial0000"}, set(), set()]


def test_a_trial_that_its_process_has_not_left_yet_does_not_go_on(paths):
    """Between the end of a stage and the end of its lease; the others wait for it."""
    opened = open_study(paths, SETTINGS)
    with ask(opened, paths, most=1) as trial:
        trial.report(9.0, 1)
        opened.tell(trial, state=TrialState.PRUNED)
        assert others_work(opened, paths, most=1)
    with ask(opened, paths, most=1) as trial:
        assert trials.stage_index(trial) == 1


def test_a_trial_that_kills_its_processes_is_given_up(paths):
    opened = open_study(paths, SETTINGS)
    for death in range(trials.MAX_DEATHS):
        with ask(opened, paths, most=1) as trial:
            assert trials.run_name(trial) == "trial0000" and trial.number == death
    with ask(opened, paths, most=1) as trial:
        assert trial is None
    assert not others_work(opened, paths, most=1)


def test_a_trial_that_is_stopped_often_is_not_given_up(paths):
    """By Ctrl-C or the time limit of a scheduler, which is nobody's fault."""
    opened = open_study(paths, SETTINGS)
    for stop in range(trials.MAX_DEATHS + 2):
        with pytest.raises(Stopped), ask(opened, paths, most=1) as trial:
            assert trials.run_name(trial) == "trial0000" and trial.number == stop
            raise Stopped(signal.SIGTERM)
    with ask(opened, paths, most=1) as trial:
        assert trials.run_name(trial) == "trial0000"


def test_a_run_that_a_dead_machine_still_holds_is_waited_for(paths, monkeypatch):
    """The lease of a trial may expire some seconds before that of its run."""
    answers = [Held("runs/x: is being worked on"), Held("runs/x: is being worked on"), RunFolder(paths.folder)]

    def train(*_: object) -> RunFolder:
        if isinstance(answer := answers.pop(0), Held):
            raise answer
        return answer

    tuning = SimpleNamespace(train=train, space=SPACE, stages=plan_stages(8, 60), paths=paths)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert stage_runs._train_when_free(tuning, {}, 0, "trial0000", 0, None).path == paths.folder and not answers


def test_trials_are_trained_on_the_data_and_the_device_of_the_study(tiny, paths, monkeypatch):
    """And the winner's recipe names what `folds.train` needs to do the same."""
    seen: list[Any] = []
    monkeypatch.setattr(stage_runs, "train_fold_model", lambda options, *_: seen.append(options))
    options = TuneOptions(data=tiny, model="lstm_small", study=paths.journal, smooth=1.5, device="cuda:1")
    space = Space("lstm_small", "quick", "cpu", (), {})
    tuning = stage_runs.Tuning(options, space, load_dataset(tiny, smooth=1.5), plan_stages(8, 60), paths)
    paths.folder.mkdir(parents=True)
    tuning.train(space, {}, tuning.stages[0], "trial0000", 0, paths.stage(0))
    assert (seen[0].smooth, seen[0].device, seen[0].recipe.clock) == (1.5, "cuda:1", "wall")
    assert recipe_of(tuning, Winner("trial0000", {"lr": 0.1}, False))["smooth"] == 1.5


def test_a_stage_is_the_run_that_the_study_says(tiny, paths, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(stage_runs, "train_fold_model", lambda options, *more: seen.append((options, *more)))
    options = TuneOptions(data=tiny, model="lstm_small", folds=6, seed=3, device="cpu", skip_bad=True)
    tuning = stage_runs.Tuning(options, SPACE, load_dataset(tiny), STAGES, paths)
    paths.folder.mkdir(parents=True)
    tuning.train(SPACE, {"lr": 0.01}, STAGES[1], "trial0007", 1, paths.stage(1), start=paths.stage(0))
    ((run, _, model, fold, *_),) = seen
    assert (model, fold, run.name, run.fold, run.folds, run.seed) == ("lstm_small", 1, "trial0007", "1", 6, 3)
    assert (run.runs, run.restart_from, run.resume, run.skip_bad) == (paths.stage(1), paths.stage(0), True, True)
    recipe = run.recipe
    assert (recipe.lr, recipe.minutes, recipe.clock, recipe.speakers) == (0.01, STAGES[1].minutes, "cpu", 0.5)


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        (Parameter("kernel", 5, 11, log=False, integer=True, step=2), IntDistribution(5, 11, step=2)),
        (Parameter("hidden", 8, 64, log=True, integer=True), IntDistribution(8, 64, log=True)),
        (Parameter("lr", 1e-3, 1e-1, log=True, integer=False), FloatDistribution(1e-3, 1e-1, log=True)),
        (Parameter("dropout", 0.0, 0.5, log=False, integer=False), FloatDistribution(0.0, 0.5)),
    ],
)
def test_values_are_drawn_from_the_range_of_their_option(parameter, distribution):
    assert trials._distribution(parameter) == distribution


def test_two_processes_draw_other_values(paths):
    drawn = []
    for opened in (open_study(paths, SETTINGS) for _ in range(6)):
        with ask(opened, paths) as trial:
            drawn.append(trial.params["lr"])
            opened.tell(trial, 1.0)
    assert len(set(drawn)) == 6 and all(1e-3 <= lr <= 1e-1 for lr in drawn)


def test_the_same_settings_continue_a_study_and_others_are_refused(paths):
    open_study(paths, SETTINGS).add_trial(optuna.trial.create_trial(value=1.0))
    assert len(open_study(paths, SETTINGS).trials) == 1
    with pytest.raises(InputError, match=r"a study with different settings \(model was lstm_small, now gru; data was"):
        open_study(paths, {**SETTINGS, "model": "gru", "data": "4567"})


@pytest.mark.parametrize("folder", ["stage1/trial0000/fold0", "compare/preset/fold2", "trials/trial0001"])
def test_a_new_study_does_not_take_over_the_runs_of_another(paths, folder):
    """Nor does it delete any."""
    open_study(paths, SETTINGS)
    (paths.folder / folder).mkdir(parents=True)
    open_study(paths, SETTINGS)
    paths.journal.unlink()
    message = f"{paths.folder}: has the runs of another study: delete the folder, or pass another --study"
    for _ in range(2):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            open_study(paths, SETTINGS | {"model": "gru_small"})
    assert (paths.folder / folder).is_dir()


def test_a_study_begins_unfinished(paths):
    """If its journal was deleted with the runs, a file may be left that says otherwise."""
    paths.folder.mkdir()
    for finished in (False, True):  # the second time, the study exists
        paths.finished.touch()
        open_study(paths, SETTINGS)
        assert paths.finished.exists() is finished


def test_a_torn_last_line_is_deleted_and_the_study_goes_on(paths, capsys):
    open_study(paths, SETTINGS).add_trial(optuna.trial.create_trial(value=1.0))
    whole = paths.journal.read_bytes()
    paths.journal.write_bytes(whole + b'{"op_code":4,"wor')
    opened = open_study(paths, SETTINGS)
    assert paths.journal.read_bytes() == whole and "removed an incomplete last line" in capsys.readouterr().err
    opened.add_trial(optuna.trial.create_trial(value=2.0))
    assert [trial.value for trial in open_study(paths, SETTINGS).trials] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"op_code":0,"worker_id":"a"}\n', "a.journal: not the journal of a study"),
        (b"torn\n{}\n", "a.journal, line 1: not readable as JSON"),
        (b'{"model": 1}\n', "a.journal, line 1: no op_code"),
        (b'{"op_code":77,"worker_id":"a"}\n', "a.journal: not the journal of a study"),
    ],
)
def test_a_file_that_is_no_journal_is_one_line(paths, content, message):
    paths.journal.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        open_study(paths, SETTINGS)
    assert "\n" not in str(error.value) and paths.journal.read_bytes() == content


def test_a_study_in_which_another_process_stays_is_refused(paths, monkeypatch):
    monkeypatch.setattr(study, "TURN_S", 0.0)
    with hold(paths.folder / "turn", "x"), pytest.raises(InputError, match="is being worked on by process"):
        open_study(paths, SETTINGS)
