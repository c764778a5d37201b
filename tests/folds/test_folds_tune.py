"""folds.tune: stages, trials whose process died, the study on disk, and whole studies on a tiny competition."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from folds import tune
from folds.data.cache import load_dataset
from folds.launching.search import search_workers
from folds.store.attempts import read_attempts
from folds.store.lease import Held, hold
from folds.store.run_folder import RunFolder
from folds.training.command_line import parse
from folds.training.signals import Stopped
from folds.tuning import find_lr, stage_runs, study, trials
from folds.tuning.comparison import Winner, recipe_of
from folds.tuning.find_lr import Curve
from folds.tuning.options import TuneOptions
from folds.tuning.report import FEW_TRIALS, first_stage, write_report
from folds.tuning.space import Parameter, Space
from folds.tuning.stages import (
    COMPARED_FOLDS,
    JUDGED_FOLDS,
    REDUCTION,
    plan_stages,
    trials_per_stage,
)
from folds.tuning.study import StudyPaths, open_study
from registry import InputError
from registry.errors import MachineFault
from registry.json_files import read_json_lines

SETTINGS = {"model": "lstm_small", "data": "0123", "trials": 8}
STAGES = plan_stages(8, 10)
SPACE = Space("lstm_small", "quick", "cpu", (Parameter("lr", 1e-3, 1e-1, log=True, integer=False),), {})


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "a.journal")


def test_stages_grow_by_the_reduction_and_the_plan_fits_the_minutes():
    stages = plan_stages(40, 480)
    full = stages[-1]
    assert [stage.step for stage in stages] == [1, 4, 16] and [stage.speakers for stage in stages] == [0.25, 0.5, 1.0]
    assert [full.minutes / stage.minutes for stage in stages] == pytest.approx([16, 4, 1])
    assert full.folds == JUDGED_FOLDS and not {*JUDGED_FOLDS} & {*COMPARED_FOLDS}
    # A quarter of 40 goes on, and a quarter of those, rounded up; the finalists and the comparison have two folds.
    assert 40 * stages[0].minutes + 10 * stages[1].minutes + (3 * 2 + 4) * full.minutes == pytest.approx(480)


def ask(study, paths, **options):
    """Only the trial, of `next_trial`."""
    return opened_trial(trials.next_trial(study, paths, SPACE, STAGES, **{"most": 8, "seed": 0, **options}))


@contextlib.contextmanager
def opened_trial(asked):
    with asked as (trial, _):
        yield trial


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
                assert [trial.number for trial in trials.counted(second)] == [0, 2, 3]
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
    assert (seen[0].smooth, seen[0].device) == (1.5, "cuda:1")
    assert recipe_of(tuning, Winner("trial0000", {"lr": 0.1}, False))["smooth"] == 1.5


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
    with pytest.raises(InputError, match=r"a study with other settings \(model was lstm_small, now gru; data was 0123"):
        open_study(paths, {**SETTINGS, "model": "gru", "data": "4567"})


def test_a_torn_last_line_is_deleted_and_the_study_goes_on(paths, capsys):
    open_study(paths, SETTINGS).add_trial(optuna.trial.create_trial(value=1.0))
    whole = paths.journal.read_bytes()
    paths.journal.write_bytes(whole + b'{"op_code":4,"wor')
    opened = open_study(paths, SETTINGS)
    assert paths.journal.read_bytes() == whole and "deleted the end of its last line" in capsys.readouterr().err
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


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs optuna, which is not installed: pip install -e '\.\[tune\]'"):
        study.check_optuna()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gru,lstm"}, "--model gru,lstm: a study is of one model"),
        ({"study": Path("tune/gru")}, "--study tune/gru: expected a file name with an extension"),
        ({"folds": 3}, "--folds 3: expected at least 4"),
        ({"minutes": 0.0}, "--minutes 0.0: expected more than 0"),
    ],
)
def test_options_that_make_no_study_are_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        TuneOptions(**options)


def test_the_executor_of_a_search():
    """The device follows from the cluster's, and the executor's processes get the study's own options."""
    options, executor_options = tune.parse(["--on", "slurm", "--gpus", "0", "--jobs", "3", "--time", "30"])
    assert (options.device, options.jobs, executor_options.minutes) == ("cpu", 3, 30)
    assert tune.parse(["--on", "ray"])[0].device == "cuda" and tune.parse([])[0].device == "auto"
    with pytest.raises(InputError, match="unknown executor 'slrm'; did you mean slurm"):
        tune.parse(["--on", "slrm"])


def test_the_processes_of_a_search_are_told_its_options(tiny, tmp_path):
    study = tmp_path / "a.journal"
    space, fixed = ("hidden=8:24", "lr=0.002:0.03"), ("strides=[2,1]",)
    options = TuneOptions(data=tiny, study=study, on="slurm", jobs=2, space=space, fix=fixed, device="cpu")
    first, second = search_workers(options)
    assert (first.title, second.title) == ("worker slurm-0", "worker slurm-1") and first.arguments == second.arguments
    told, _ = tune.parse(list(first.arguments))
    assert told == dataclasses.replace(options, on="local", data=tiny.resolve())
    assert not first.folder.finished
    StudyPaths(study).folder.mkdir()
    StudyPaths(study).finished.touch()
    assert first.folder.finished


def stub_tuning(paths: StudyPaths, most: int) -> stage_runs.Tuning:
    """A study of `most` trials on data of which only the lengths are known."""
    data: Any = SimpleNamespace(train=SimpleNamespace(tokens=SimpleNamespace(lengths=np.array([9, 11]))))
    return stage_runs.Tuning(TuneOptions(trials=most), SPACE, data, STAGES, paths)


@pytest.fixture
def run_stages(paths, monkeypatch):
    """Run the next stages of a study of `most` trials: they have the distances given, or raise the error given."""
    opened = open_study(paths, SETTINGS)

    def run(*outcomes, most=4):
        for outcome in outcomes:

            def found(*_, outcome=outcome):
                answer = outcome() if callable(outcome) else outcome
                if isinstance(answer, Exception):
                    raise answer
                return answer

            monkeypatch.setattr(stage_runs, "_train_stage", found)
            with ask(opened, paths, most=most) as trial:
                stage_runs.run_stage(stub_tuning(paths, most), opened, trial)
        return opened.trials[-1]

    return run


def test_the_best_trial_goes_through_all_stages(run_stages, capsys):
    waiting = run_stages(9.0, 8.5, 9.5)
    assert waiting.state == TrialState.PRUNED and waiting.intermediate_values == {1: 9.5}
    run_stages(9.9)
    assert capsys.readouterr().out.endswith("trial0003 stage 1 of 3: held-out distance 9.900, place 4 of 4\n")
    second = run_stages(8.2)
    assert second.state == TrialState.PRUNED and second.intermediate_values == {1: 8.5, 4: 8.2}
    last = run_stages(7.0)
    assert last.state == TrialState.COMPLETE and last.value == 7.0
    assert last.intermediate_values == {1: 8.5, 4: 8.2, 16: 7.0}
    assert capsys.readouterr().out.splitlines() == [
        "trial0001 goes on to stage 2 of 3",
        "trial0001 stage 2 of 3: held-out distance 8.200, place 1 of 1",
        "trial0001 goes on to stage 3 of 3",
        "trial0001 stage 3 of 3: held-out distance 7.000, place 1 of 1",
    ]


@pytest.mark.parametrize(("distance", "warned"), [(9.1, True), (8.9, False)])
def test_a_first_stage_that_taught_the_preset_nothing_is_warned_of(run_stages, capsys, distance, warned):
    run_stages(distance)
    assert ("warning: the first trial learnt next to nothing" in capsys.readouterr().out) is warned
    run_stages(9.9)  # others may be worse than the preset
    assert "warning" not in capsys.readouterr().out


def test_a_configuration_that_cannot_be_trained_ends_its_trial_but_not_the_study(run_stages):
    run_stages(9.0)
    refused = run_stages(InputError("diverged"))
    assert refused.state == TrialState.PRUNED and refused.user_attrs["refused"] == "diverged"
    assert refused.value is None and run_stages(8.0, 8.5).intermediate_values == {1: 8.5}


def test_a_refused_trial_ends_no_process_while_another_trains_the_first(paths, run_stages):
    with ask(open_study(paths, SETTINGS), paths, most=4) as preset:
        assert preset.number == 0
        assert run_stages(InputError("diverged")).state == TrialState.PRUNED


def test_a_fault_of_the_machine_is_no_trial_s(run_stages):
    run_stages(9.0)
    with pytest.raises(MachineFault, match="not available"):
        run_stages(MachineFault("--device cuda: not available on this machine"))


def test_if_nothing_can_be_trained_the_study_ends_with_the_reason(run_stages):
    with pytest.raises(InputError, match="too short for their labels"):
        run_stages(InputError("too short for their labels"))


def test_a_process_that_was_suspended_while_another_took_its_trial_over_tells_nothing(run_stages, paths, capsys):
    opened = open_study(paths, SETTINGS)

    def taken_over():
        opened.tell(0, state=TrialState.FAIL)
        return 5.0

    assert run_stages(taken_over).state == TrialState.FAIL
    assert "another process took it over" in capsys.readouterr().out and not trials.counted(opened)


def test_the_weights_of_trials_that_cannot_go_on_are_deleted(run_stages, paths):
    """Of 8 trials, 2 go on to the second stage, and 1 to the last."""
    folders = [RunFolder.of(paths.stage(0), f"trial{number:04d}", 0, 0, 5) for number in range(8)]
    for folder in folders:
        folder.weights.parent.mkdir(parents=True)
        folder.weights.touch()

    def kept() -> list[int]:
        return [number for number, folder in enumerate(folders) if folder.weights.exists()]

    run_stages(9.0, 8.0, 8.5, 9.5, most=8)
    assert kept() == [1, 2, 4, 5, 6, 7]
    run_stages(9.9, 9.8, 8.1, 9.7, most=8)
    assert kept() == [1, 6]
    run_stages(7.6, 7.5, most=8)
    assert kept() == [6]
    assert run_stages(6.0, most=8).state == TrialState.COMPLETE and kept() == [6]


def finished_study(distances) -> optuna.Study:
    made = optuna.create_study()
    distributions = {"lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)}
    for number, distance in enumerate(distances):
        state = TrialState.COMPLETE if number % 2 else TrialState.PRUNED
        values = {1: distance, 4: distance - 1, 16: distance - 2} if number % 2 else {1: distance}
        made.add_trial(
            optuna.trial.create_trial(
                params={"lr": 1e-3 * (number + 1)},
                distributions=distributions,
                value=list(values.values())[-1],
                state=state,
                intermediate_values=values,
            )
        )
    return made


def test_the_report_is_one_file_without_a_network_and_escapes_its_text(paths):
    stages = plan_stages(8, 10)
    made = finished_study([9.0, 8.0, 7.5, 7.0, 6.0, 6.5])
    assert [trial.value for trial in first_stage(made, stages[0]).trials] == [9.0, 8.0, 7.5, 7.0, 6.0, 6.5]
    write_report(paths, made, stages, "<b>title", "a < b")
    page = paths.report.read_text(encoding="utf-8")
    assert "&lt;b&gt;title" in page and "a &lt; b" in page and "<b>title" not in page
    assert page.count("Plotly.newPlot(") >= 4 and page.count("Too few trials.") == 0
    assert not re.search(r"""<(?:script|link|img)[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    write_report(paths, finished_study([9.0] * (FEW_TRIALS - 1)), stages, "title", "lines")
    assert "Too few trials." in paths.report.read_text(encoding="utf-8")


def test_the_range_test_names_the_steepest_and_the_lowest_loss():
    rates = np.geomspace(1e-5, 1, 101)
    logs = np.log10(rates)
    losses = 4 - 2 / (1 + np.exp(-4 * (logs + 3))) + np.maximum(logs + 1, 0) ** 2
    assert Curve(rates, losses).steepest == pytest.approx(1e-3, rel=0.1)
    noise = np.random.default_rng(0).normal(scale=0.1, size=101)
    for curve in (Curve(rates, losses), Curve(rates, losses + noise)):
        assert 5e-4 < curve.steepest < 2e-3 and 0.02 < curve.lowest < 0.3


def test_the_range_test_of_a_model_writes_its_curve(tiny, tmp_path, monkeypatch, capsys):
    paths = StudyPaths(tmp_path / "tune.journal")
    arguments = ["--data", str(tiny), "--study", str(paths.journal), "--find-lr", *TINY, "hidden=16", "layers=1"]
    monkeypatch.setattr(sys, "argv", ["tune", *(word for word in arguments if word not in SEARCHED)])
    monkeypatch.setattr(find_lr, "STEPS", 60)
    assert tune.main() == 0
    found = re.search(r"falls fastest at a learning rate of (\S+) and is lowest at (\S+),", capsys.readouterr().out)
    assert found and find_lr.LOWEST < float(found[1]) < float(found[2]) <= find_lr.HIGHEST
    assert "Plotly.newPlot(" in paths.range_test.read_text() and not paths.journal.exists()


SEARCHED = ["--space", "hidden=8:24", "layers=1:2", "lr=0.002:0.03"]
TINY = ["--model", "lstm_small", "--trials", "8", "--minutes", "0.2", *SEARCHED]
TINY += ["--fix", "channels=[16,16]", "strides=[2,1]", "time_mask=4", "feature_mask=1"]
TINY += ["batch_frames=400", "speed=0", "warmup=0.05", "clip=5", "time_every=120", "weight_decay=0.01", "dropout=0.1"]


def kill_two(paths: StudyPaths, killed: dict[int, str]) -> None:
    """Send SIGKILL to two processes in the middle of two trials; `killed` gets the trial of each process."""
    deadline = time.monotonic() + 600
    while len(killed) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        for lease in paths.folder.glob("trials/*/lease-*.json"):
            run = lease.parent.name
            begun = list(paths.folder.glob(f"stage*/{run}/fold*/config.json"))
            try:
                pid = json.loads(lease.read_text())["pid"]
            except (OSError, ValueError):
                continue
            if begun and pid not in killed and run not in killed.values() and len(killed) < 2:
                os.kill(pid, signal.SIGKILL)
                killed[pid] = run


def test_two_killed_processes_cost_no_trial_and_none_is_counted_twice(tiny, preloaded, tmp_path, monkeypatch, capsys):
    """Two processes and eight trials; a process is killed in mid-trial, twice. Another one takes its place."""
    paths = StudyPaths(tmp_path / "tune.journal")
    arguments = ["--data", str(tiny), "--study", str(paths.journal), *TINY, "--on", "local", "--jobs", "2"]
    monkeypatch.setattr(sys, "argv", ["tune", *arguments])
    killed: dict[int, str] = {}
    thread = threading.Thread(target=kill_two, args=(paths, killed), daemon=True)
    thread.start()
    assert tune.main() == 0
    printed = capsys.readouterr().out
    attempts = [attempt for path in paths.folder.glob("workers/*/attempts.jsonl") for attempt in read_attempts(path)]
    reasons = [attempt.reason for attempt in attempts if attempt.event == "failed"]
    assert len(killed) == 2 and len(reasons) == 2 and all("killed by SIGKILL" in reason for reason in reasons)
    assert Counter(attempt.event for attempt in attempts) == {"started": 4, "failed": 2, "finished": 2}
    assert "trial0000 stage 1 of 3: held-out distance" in printed

    opened = open_study(paths, json.loads(json.dumps(settings_of(paths))))
    states = Counter(trial.state for trial in opened.trials)
    assert states[TrialState.FAIL] == 2 and states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    finished = trials.counted(opened)
    assert sorted(map(trials.run_name, finished)) == [f"trial{number:04d}" for number in range(8)]
    known = trials.rungs(opened, plan_stages(8, 0.2))
    assert [len(rung.distances) for rung in known] == trials_per_stage(8) and len(known[-1].distances) == 1
    assert len(finished) == 8 and {*killed.values()} <= {trials.run_name(trial) for trial in finished}
    assert all(1 in trial.intermediate_values for trial in finished)
    best = json.loads(paths.best.read_text())
    (model,) = parse(["--config", str(paths.best)])
    assert model.name == "lstm_small" and model.options.recipe.lr == best["lr"]
    assert paths.report.read_text().count("Plotly.newPlot(") >= 4 and str(paths.best) in printed
    assert "8 trials took" in printed and not list(paths.folder.glob("trials/*"))


def settings_of(paths: StudyPaths) -> dict:
    """The settings that a study was begun with, as its journal has them."""
    rows = read_json_lines(paths.journal, dict)
    return next(row["user_attr"]["settings"] for row in rows if "settings" in row.get("user_attr", {}))
