"""folds.tune: options, reports, the range test, and a whole study on a tiny competition."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from folds import tune
from folds.launching import search_worker
from folds.launching.attempt import Outcome
from folds.launching.executors.local import LocalOptions
from folds.launching.launcher import Interrupted, Launcher
from folds.launching.search import LogDisplay, WorkerFolder, run_search, search_workers
from folds.store.attempts import read_attempts
from folds.store.lease import holder_of
from folds.training.command_line import parse
from folds.training.signals import Stopped
from folds.tuning import find_lr, study, trials
from folds.tuning.find_lr import Curve
from folds.tuning.options import TuneOptions
from folds.tuning.report import FEW_TRIALS, first_stage, write_report
from folds.tuning.stages import (
    plan_stages,
    trials_per_stage,
)
from folds.tuning.study import StudyPaths, open_study
from folds.tuning.work import make_tuning
from registry import InputError
from registry.json_files import read_json_lines


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs optuna, which is not installed: pip install -e '\.\[tune\]'"):
        study.check_optuna()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gru,lstm"}, "--model gru,lstm: a study is of one model"),
        ({"study": Path("tune/gru")}, "--study tune/gru: expected a file name that ends in .journal: tune/gru.journal"),
        ({"study": Path("tune/a.v2")}, "--study tune/a.v2: expected a file name that ends in .journal"),
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
    assert tune.parse(["--on", "ray", "--device", "cpu"])[0].device == "cpu"
    with pytest.raises(InputError, match="unknown executor 'slrm'; did you mean slurm"):
        tune.parse(["--on", "slrm"])


@pytest.mark.parametrize("option", ["--fix", "--space"])
def test_values_of_a_repeated_option_are_not_lost(option):
    """Of two, the parser keeps the last."""
    with pytest.raises(InputError, match=f"^{option}: given twice: expected all of its values after one {option}$"):
        tune.parse([option, "lr=0.1:0.2", option, "clip=1:2"])


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


def test_processes_of_this_machine_have_folders_of_their_own(tiny, tmp_path):
    """Several machines, and several launchers on one, may work on a study."""
    (process,) = search_workers(TuneOptions(data=tiny, study=tmp_path / "a.journal", device="cpu"))
    assert process.title == f"worker {socket.gethostname()}-{os.getpid()}-0"


def test_a_search_whose_processes_fail_for_good_ends_with_a_reason(tiny, tmp_path, monkeypatch):
    """Unless the others have finished the study."""
    monkeypatch.setattr(Launcher, "run", lambda self, workers: {workers[1]: Outcome("failed", "no memory left")})
    options = TuneOptions(data=tiny, study=tmp_path / "a.journal", device="cpu", jobs=2)
    with pytest.raises(InputError, match=r"^no memory left \(worker [^\n]*-1; log: [^\n]*-1/log.txt\)$"):
        run_search(options, LocalOptions())
    StudyPaths(options.journal).folder.mkdir()
    StudyPaths(options.journal).finished.touch()
    run_search(options, LocalOptions())


@pytest.mark.parametrize(
    ("jobs", "stop", "status", "message"),
    [
        ("1", Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; the study is saved: continue with the same command"),
        ("2", Interrupted("the jobs continue in Slurm", signal.SIGINT), 130, "the jobs continue in Slurm"),
    ],
)
def test_a_search_that_is_stopped_writes_no_result(jobs, stop, status, message, tiny, tmp_path, monkeypatch, capsys):
    def stopped(*_: object) -> None:
        raise stop

    monkeypatch.setattr(tune, "work_on" if jobs == "1" else "run_search", stopped)
    monkeypatch.setattr(tune, "_report", lambda *_: pytest.fail("a result was written"))
    arguments = ["--data", str(tiny), "--study", str(tmp_path / "a.journal"), "--device", "cpu", "--jobs", jobs]
    monkeypatch.setattr(sys, "argv", ["tune", *arguments])
    assert tune.main() == status and capsys.readouterr().err == f"{message}\n"


def test_a_process_of_a_search_holds_its_lease_until_it_is_stopped(tiny, tmp_path, monkeypatch):
    process, _ = search_workers(TuneOptions(data=tiny, study=tmp_path / "a.journal", device="cpu", jobs=2))
    holders: list[int] = []

    def stopped(tuning: object) -> None:
        holder = holder_of(process.folder.path)
        assert holder is not None
        holders.append(holder.pid)
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(search_worker, "work_on", stopped)
    monkeypatch.setattr(search_worker.worker, "prepare_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", process.command(0.0, 1)[2:])
    assert search_worker.main() == 143
    assert holders == [os.getpid()] and holder_of(process.folder.path) is None


def test_the_logs_of_a_search_are_shown_once_and_in_whole_lines(tmp_path, capsys):
    """Without what an earlier launch has left in them."""
    first, second = (WorkerFolder(tmp_path / "workers" / f"local-{index}") for index in range(2))
    first.path.mkdir(parents=True)
    first.log.write_text("of an earlier launch\n")
    display = LogDisplay([first, second])
    for more, shown in (("", ""), ("one\ntwo\nthr", "one\ntwo\n"), ("ee\n", "three\n"), ("", "")):
        with open(first.log, "a") as log:
            log.write(more)
        display.show([])
        assert capsys.readouterr().out == shown


def test_a_preset_that_is_no_trial_is_announced(tiny, tmp_path, capsys):
    options = TuneOptions(data=tiny, model="lstm_small", study=tmp_path / "a.journal", space=("lr=0.01:0.02",))
    tune._announce(make_tuning(options))
    printed = capsys.readouterr().out
    assert "the preset's lr=0.002 is outside 0.01 to 0.02, so the preset is not among the trials\n" in printed
    tune._announce(make_tuning(dataclasses.replace(options, space=())))
    assert "not among the trials" not in capsys.readouterr().out


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
    found = re.search(r"falls fastest at a learning rate of (\S+) and is lowest at (\S+) ", capsys.readouterr().out)
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
    finished = trials.latest_stages(opened)
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
