"""What a launch shows of its runs, and what it estimates."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from launches import LAUNCH, FakeExecutor, start, tasks_of

from folds import launch
from folds.data.cache import load_dataset
from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.estimate import Estimate, describe_total, estimate_hours, frames_per_epoch
from folds.launching.launcher import Launcher
from folds.launching.status import START_S, RunStatus, known_runs, read_status
from folds.launching.status_table import print_status, row
from folds.store.attempts import record_attempt
from folds.store.lease import hold
from folds.store.run_folder import RunFolder


def test_a_failure_of_an_earlier_launch_is_no_news(tiny, tmp_path, monkeypatch, capsys):
    """It is what --status tells until the run is tried again."""
    first, second = tasks_of(tiny, tmp_path)
    for task in (first, second):
        record_attempt(task.folder.attempts, "failed", "local", reason="of last week")
        assert read_status(task.folder).reason == "of last week"
    second.folder.config.touch()
    failed = Outcome("failed", "of today", hopeless=True)
    outcomes = {first.title: [failed], second.title: [Outcome("busy"), Outcome("busy"), failed]}
    executor = FakeExecutor(outcomes)
    end = executor.ended

    def ended():
        ends = end()
        for task, outcome in ends:
            record_attempt(task.folder.attempts, outcome.state, "local", reason=outcome.reason)
        return ends

    monkeypatch.setattr(executor, "ended", ended)
    monkeypatch.setattr("folds.launching.launcher.REFRESH_S", 0.0)
    Launcher(executor, 3, Destination(tmp_path)).run([first, second])
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        "lstm_small fold 0 failed: of today",
        "lstm_small fold 1 stopped",
        "lstm_small fold 1 failed: of today",
    ]


@pytest.mark.parametrize(("clock", "left"), [("wall", 10 / 60), ("cpu", 1.0)])
def test_minutes_that_a_stopped_run_has_had_are_not_estimated_again(clock, left, tiny, tmp_path):
    """Unless it was stopped before its first checkpoint, and has to begin again."""
    first, second = tasks_of(tiny, tmp_path, "--minutes", "120", "--clock", clock)
    recipe = {"epochs": 40, "minutes": 120, "clock": clock}
    first.folder.checkpoint(0).parent.mkdir(parents=True)
    first.folder.config.write_text(json.dumps({"options": {"recipe": recipe}}))
    first.folder.timing.write_text(11 * '{"wall_s": 600, "cpu_s": 327.2727272727, "frames_per_s": 1000}\n')
    for checkpoints, hours in ((0, 2.0), (1, left)):
        if checkpoints:
            first.folder.checkpoint(11).touch()
        estimates = estimate_hours([first, second], load_dataset(tiny), Destination(tmp_path), probe=False)
        assert [it.status.state for it in estimates] == ["stopped", "waiting"]
        assert [it.hours for it in estimates] == pytest.approx([hours, 2.0])


def test_unknown_hours_are_not_called_none(tiny, tmp_path):
    first, second = tasks_of(tiny, tmp_path)
    unknown = Estimate(first, read_status(first.folder), None, "")
    known = Estimate(second, read_status(second.folder), 1.5, "its other runs")
    no_speed = "hours unknown, since no run with the same recipe has trained yet"
    assert describe_total([unknown] * 2, 2) == f"2 runs: {no_speed}"
    expected = "at least 1:30 h of training in all, at least 1:30 h 2 at a time, prediction not included"
    note = "; 1 unknown: no run with the same recipe has trained yet"
    assert describe_total([known, unknown], 2) == f"2 runs: {expected}{note}"
    assert describe_total([known], 1) == (
        "1 run: 1:30 h of training in all, about 1:30 h one after the other, prediction not included"
    )


def test_epochs_that_are_left_take_as_long_as_the_speed_of_the_members_runs_says(tiny, tmp_path):
    dataset, destination = load_dataset(tiny), Destination(tmp_path)
    first, second = tasks_of(tiny, tmp_path, "--epochs", "10")
    first.folder.checkpoint(4).parent.mkdir(parents=True)
    first.folder.checkpoint(4).touch()
    first.folder.metrics.write_text('{"epoch": 4, "held_out": 9.5}\n')
    first.folder.timing.write_text('{"wall_s": 60, "cpu_s": 60, "frames_per_s": 500}\n')
    estimates = estimate_hours([first, second], dataset, destination, probe=False)
    frames = [frames_per_epoch(task, dataset) for task in (first, second)]
    assert [it.hours for it in estimates] == pytest.approx([6 * frames[0] / 500 / 3600, 10 * frames[1] / 500 / 3600])
    wide = tasks_of(tiny, tmp_path, "--epochs", "10", "--name", "wide")
    hours = [it.hours for it in estimate_hours([first, *wide], dataset, destination, probe=False)]
    assert hours == pytest.approx([estimates[0].hours, None, None])


def test_a_failure_on_another_machines_disk_is_told(tiny, tmp_path, monkeypatch, capsys):
    """With runs under a URL, each machine trains in a folder of its own: the launcher sees no more than the outcome."""
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    out_of_memory, stopped = Outcome("failed", "out of memory", hopeless=True), Outcome("stopped", hopeless=True)
    executor = FakeExecutor({"lstm_small fold 0": [out_of_memory], "lstm_small fold 1": [stopped]})
    monkeypatch.setattr(launch, "create_executor", lambda *_: executor)
    assert start(monkeypatch, tiny, Path(f"file://{tmp_path}/store"), *LAUNCH) == 1
    told = "lstm_small fold 0 failed: out of memory"
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("lstm", "1 "))]
    assert shown == [told, told, "1 failed, 1 waiting"]


def finish(folder: RunFolder) -> None:
    """Have the predictions of a finished run, which are empty here."""
    folder.path.mkdir(parents=True, exist_ok=True)
    for split in ("oof", "dev", "test"):
        folder.predictions(split).touch()


def test_a_run_that_is_or_becomes_finished_is_not_attempted(tiny, tmp_path, monkeypatch, capsys):
    """The second one is finished by the process that was training it when the launch began."""
    first, second = tasks_of(tiny, tmp_path)
    finish(first.folder)
    calls: list[str] = []
    executor = FakeExecutor({})

    def ended():
        calls.append("ended")
        if calls == ["ended"] * 2:
            finish(second.folder)
        return []

    monkeypatch.setattr(executor, "ended", ended)
    monkeypatch.setattr(executor, "close", lambda: calls.append("close"))
    monkeypatch.setattr("folds.launching.launcher.REFRESH_S", 1e9)
    with hold(second.folder.path, "test"):
        assert Launcher(executor, 3, Destination(tmp_path)).run([first, second]) == {}
    assert calls == ["ended", "ended", "close"] and executor.submitted == []
    # The last states are shown, however little time has passed since the states before.
    shown = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["lstm_small fold 0 finished", "lstm_small fold 1 training", "lstm_small fold 1 finished"]


def test_the_last_attempt_says_what_a_run_without_a_process_waits_for(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "gru" / "fold0")
    record_attempt(folder.attempts, "submitted", "ray")
    assert (read_status(folder).state, read_status(folder).place) == ("queued", "ray")
    assert known_runs(tmp_path) == [folder]
    with monkeypatch.context() as patch:
        long_ago = time.time() - START_S - 1
        patch.setattr(time, "time", lambda: long_ago)
        record_attempt(folder.attempts, "started", "slurm", job="7_3")
    assert read_status(folder).state == "waiting"  # its process must have ended without a word
    folder.config.touch()
    assert read_status(folder).state == "stopped"
    record_attempt(folder.attempts, "failed", "slurm", job="7_3", reason="out of memory")
    with hold(folder.path, "test"):  # by folds.train
        status = read_status(folder)
    assert status.state == "training" and "7_3" not in status.place and status.reason == ""


@pytest.mark.parametrize(
    ("greedy", "distance"), [({"oof": 0.0, "dev": 5.0}, 0.0), ({"oof": None, "dev": 5.0}, 5.0), ({}, 8.25)]
)
def test_the_distance_and_the_speed_of_a_finished_run_are_those_of_its_summary(greedy, distance, tmp_path):
    folder = RunFolder(tmp_path / "gru" / "fold0")
    finish(folder)
    folder.metrics.write_text('{"epoch": 2, "held_out": 8.25}\n')
    folder.timing.write_text('{"wall_s": 60, "cpu_s": 60, "frames_per_s": 500}\n')
    folder.summary.write_text(json.dumps({"cpu_minutes": 1, "greedy_distance": greedy, "frames_per_s": 2000}))
    status = read_status(folder)
    assert (status.distance, status.frames_per_s, status.hours_left) == (distance, 2000, 0.0)


def test_the_table_of_runs(tmp_path, capsys):
    """Training runs come first, and only they have hours left."""
    stopped = RunStatus(RunFolder(tmp_path / "gru" / "fold0"), "stopped", epoch=3, hours_left=2.0)
    training = RunStatus(
        RunFolder(tmp_path / "gru" / "fold1"), "training", 2, 10, 8.251, 12_345.6, hours_left=1.085, place="host"
    )
    assert row(stopped) == ("gru fold 0", "stopped", "3", "", "", "", "")
    assert row(training) == ("gru fold 1", "training", "2/10", "8.25", "12,346", "1:05 h", "host")
    print_status([stopped, training])
    _, *rows, counts = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in rows if "fold" in line] == ["1", "0"] and counts == "1 training, 1 stopped"


def test_the_status_of_a_plan_is_that_of_its_runs(tiny, tmp_path, monkeypatch, capsys):
    """Not of all in the runs folder, and also of those that nobody has started."""
    record_attempt(RunFolder(tmp_path / "gru" / "fold0").attempts, "submitted", "ray")
    assert start(monkeypatch, tiny, tmp_path, *LAUNCH, "--status") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("\n2 waiting\n") and "lstm_small fold 1" in printed and "gru" not in printed
