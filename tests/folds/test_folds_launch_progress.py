"""What a launch shows of its runs, and what it estimates."""

from __future__ import annotations

from launches import FakeExecutor, tasks_of

from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
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
