"""What a launch shows of its runs, and what it estimates."""

from __future__ import annotations

import json

import pytest
from launches import FakeExecutor, tasks_of

from folds.data.cache import load_dataset
from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.estimate import Estimate, describe_total, estimate_hours
from folds.launching.launcher import Launcher
from folds.launching.status import read_status
from folds.store.attempts import record_attempt


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
        estimates = estimate_hours([first, second], load_dataset(tiny), probe=False)
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
