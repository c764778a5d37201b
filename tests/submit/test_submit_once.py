"""One submission for a file's content: with another ledger, links, a wrong clock, a list that lags, and two at once."""

from __future__ import annotations

import errno
import os
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
from conftest import Harness
from test_submit_processes import arguments

from registry import InputError
from submit import ledger
from submit.client import TimeBudget
from submit.pending import PendingAttempts


def interrupt(harness: Harness, fault: str) -> None:
    """A run that does not know what became of its request."""
    harness.kaggle.faults["CreateSubmission"] = [fault]
    harness.kaggle.faults["ListSubmissions"] = ["", *["500"] * 5]
    assert harness.run().status == 1
    assert [attempt.state for attempt in harness.attempts] == ["open"]
    harness.kaggle.faults.clear()


@pytest.mark.parametrize("days", [1, -1, 3650])
def test_clock_that_is_set_between_two_runs_while_the_list_lags(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    interrupt(harness, "lost")
    true_time = time.time

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(true_time(), tz) + timedelta(days=days)

    monkeypatch.setattr(time, "time", lambda: true_time() + 86400 * days)
    monkeypatch.setattr(ledger, "datetime", Clock)
    harness.kaggle.restart_lag()
    harness.kaggle.lag = 0.5
    again = harness.run(settle=5.0)
    assert again.status == 0 and "already submitted as ref 101 by an interrupted run" in again.out
    assert len(harness.kaggle.submissions) == 1


def test_attempt_under_another_ledger_is_found_while_the_list_lags(harness: Harness) -> None:
    interrupt(harness, "lost")
    harness.kaggle.restart_lag()
    harness.kaggle.lag = 0.5
    outcome = harness.run(settle=5.0, ledger_file=harness.folder / "other.jsonl")
    assert outcome.status == 2 and "as ref 101 by ada, under another ledger" in outcome.err
    assert len(harness.kaggle.submissions) == 1
    # The next answer may come from a server that does not know the submission yet.
    harness.kaggle.restart_lag()
    again = harness.run(settle=5.0, ledger_file=harness.folder / "third.jsonl")
    assert again.status == 2 and len(harness.kaggle.submissions) == 1


def test_attempt_under_another_ledger_that_never_arrived_is_made_after_the_settle_time(harness: Harness) -> None:
    interrupt(harness, "reset")
    outcome = harness.run(settle=1.0, ledger_file=harness.folder / "other.jsonl")
    assert outcome.status == 0 and outcome.seconds >= 1.0
    assert "1 attempt(s) without an outcome" in outcome.out
    assert len(harness.kaggle.submissions) == 1


def test_submission_that_was_answered_but_is_not_listed_yet_is_not_made_under_another_ledger(harness: Harness) -> None:
    harness.kaggle.lag = 1.0
    assert harness.run().status == 0
    outcome = harness.run(settle=5.0, ledger_file=harness.folder / "other.jsonl")
    assert outcome.status == 2 and len(harness.kaggle.submissions) == 1


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_ledger_under_another_name_is_the_same_ledger(harness: Harness, link: object) -> None:
    interrupt(harness, "lost")
    other = harness.folder / "other.jsonl"
    link(harness.ledger, other)  # type: ignore[operator]
    outcome = harness.run(ledger_file=other)
    assert outcome.status == 0 and "already submitted as ref 101 by an interrupted run" in outcome.out
    assert [attempt.state for attempt in harness.attempts] == ["submitted"]


def test_two_processes_with_two_ledgers_make_one_submission(harness: Harness) -> None:
    harness.kaggle.lag = 0.5
    others = ["--ledger-file", str(harness.folder / "other.jsonl")]
    both = [harness.start(*arguments(harness), *more) for more in ([], others)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert sorted(end[2] for end in ends) == [0, 2], ends
    assert len(harness.kaggle.submissions) == 1


def test_nothing_is_sent_without_the_users_record(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = harness.folder / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(blocked))
    outcome = harness.run()
    assert outcome.status == 2 and "cannot be written (Not a directory)" in outcome.err
    assert "set XDG_STATE_HOME to another folder" in outcome.err
    assert not harness.kaggle.requests


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # as pathlib, in a container with any user id

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="no home folder for the record of submissions: set XDG_STATE_HOME"):
        PendingAttempts("hw3p2")


@pytest.mark.parametrize("name", ["folder", "file/ledger.jsonl", "loop", "fifo", "x" * 300, "damaged"])
def test_ledger_that_cannot_be_used_is_refused_before_kaggle_is_contacted(harness: Harness, name: str) -> None:
    (harness.folder / "folder").mkdir()
    (harness.folder / "file").touch()
    (harness.folder / "loop").symlink_to("loop")
    os.mkfifo(harness.folder / "fifo")
    (harness.folder / "damaged").write_text('{"event": "attempt", "id": "a", "epoch": 1.0}\n')
    outcome = harness.run(ledger_file=harness.folder / name)
    assert outcome.status == 2 and not harness.kaggle.requests
    assert str(harness.folder / name.partition("/")[0]) in outcome.err


def test_submission_that_cannot_be_recorded_is_reported_and_recorded_by_the_next_run(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = ledger.append

    def fill_disk(path: Path, event: str, id: str, **values: Any) -> None:
        if event == "submitted":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append(path, event, id, **values)

    monkeypatch.setattr(ledger, "append", fill_disk)
    outcome = harness.run()
    assert outcome.status == 1 and "submitted, but not yet recorded in the ledger (ref 101; the disk" in outcome.err
    monkeypatch.setattr(ledger, "append", append)
    again = harness.run()
    assert again.status == 0 and "already submitted as ref 101" in again.out
    assert [attempt.state for attempt in harness.attempts] == ["submitted"] and len(harness.kaggle.submissions) == 1


def test_waiting_without_a_pause_never_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    budget = TimeBudget(pause=0.001)
    for waits in (0, 5, 1023, 1024, 10**6):
        budget.wait(waits)
    assert slept[0] < 0.0013 and all(0.024 <= seconds <= 0.036 for seconds in slept[1:])


def test_pending_attempts_are_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, other = PendingAttempts("hw"), PendingAttempts("another")
    first.prepare()
    other.prepare()
    first.add("a", "0" * 64)
    first.add("b", "0" * 64)
    first.add("c", "1" * 64)
    assert (first.find("0" * 64), first.find("1" * 64), first.find("2" * 64)) == ({"a", "b"}, {"c"}, set())
    assert other.find("0" * 64) == set()
    first.remove("a", "0" * 64)
    first.remove("a", "0" * 64)
    assert first.find("0" * 64) == {"b"}
