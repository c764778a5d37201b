"""The ledger: concurrent writers lose no events; its table and plot."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import queue
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from filelock import FileLock

from registry.errors import InputError
from submit import ledger
from submit.__main__ import SubmitOptions, run
from submit.client import Client, Failure, TimeBudget, _collect_lines, parse_retry_after
from submit.ledger_table import COLUMNS, build_table, plot_attempts

WRITER = """
import sys
from pathlib import Path
from submit import ledger
for number in range(100):
    id = f"{sys.argv[2]}-{number}"
    ledger.append(Path(sys.argv[1]), "attempt", id, competition="hw", file="x" * 3000, sha256="0")
"""


def attempt(path: Path, id: str, sha256: str = "0", **blend: object) -> None:
    ledger.append(path, "attempt", id, competition="hw", file="submission.csv", sha256=sha256, limit=9.0, blend=blend)


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], cwd=ROOT) for number in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {event["id"] for event in events} == {f"{writer}-{number}" for writer in range(3) for number in range(100)}
    assert len(events) == 300


def test_events_of_an_attempt_add_up(tmp_path: Path) -> None:
    path = tmp_path / "new" / "submissions.jsonl"
    attempt(path, "a", oof=9.9)
    (open_one,) = ledger.read_attempts(path)
    assert (open_one.state, open_one.ref) == ("open", None)
    ledger.append(path, "unclear", "a", reason="reset")
    assert (ledger.read_attempts(path)[0].state, ledger.read_attempts(path)[0].reason) == ("open", "reset")
    ledger.append(path, "failed", "a", reason="not there")
    assert ledger.read_attempts(path)[0].state == "failed"
    ledger.append(path, "submitted", "a", ref=7, how="listed")  # a later event overrides an earlier one
    ledger.append(path, "score", "a", status="COMPLETE", public_score="9.5", private_score="", reason="")
    (done,) = ledger.read_attempts(path)
    assert (done.state, done.ref, done.public_score, done.blend) == ("submitted", 7, "9.5", {"oof": 9.9})


def test_torn_line_loses_no_other_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a")
    with open(path, "a") as file:
        file.write('\n{"event": "attempt", "id": "to')
    attempt(path, "b")
    assert [attempt.id for attempt in ledger.read_attempts(path)] == ["a", "b"]
    assert path.read_text().count("\n") == 4
    assert capsys.readouterr().err == f"warning: {path}, line 3: cut off, and left out\n"  # not of the empty line


def test_event_that_is_not_written_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:20])

    path = tmp_path / "submissions.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "open", lambda path, mode, buffering: FullDisk(path, mode), raising=False)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            attempt(path, "a")
    attempt(path, "b")
    assert [found.id for found in ledger.read_attempts(path)] == ["b"]


def test_event_is_flushed_to_disk_and_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "submissions.jsonl", list[str]()
    monkeypatch.setenv("KAGGLE_KEY", "0123456789-the-key")
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(path.read_text()))
    ledger.append(path, "unclear", "a", reason="refused 0123456789-the-key")
    assert [json.loads(line)["reason"] for line in flushed] == ["refused [redacted]"]


def test_events_of_later_versions_and_of_unknown_attempts_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a")
    ledger.append(path, "rescored", "a", public_score=9.5)
    ledger.append(path, "failed", "b", reason="its attempt was on a line that was cut off")
    (found,) = ledger.read_attempts(path)
    assert (found.id, found.state, found.public_score) == ("a", "open", "")


def test_missing_ledger_has_no_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "submissions.jsonl"
    with Client() as client:
        assert run(SubmitOptions(ledger=True, ledger_file=path), client) == 0
    assert capsys.readouterr().out == f"{path} has no attempts\n"
    assert not path.exists()


def test_sending_lock_is_exclusive(tmp_path: Path) -> None:
    path, calls = tmp_path / "submissions.jsonl", list[int]()

    def wait(waits: int) -> None:
        calls.append(waits)
        if waits == 2:
            other.release()

    other = FileLock(f"{path}.sending")
    other.acquire()
    with ledger.sending_lock(path, wait):
        assert calls == [0, 1, 2]


def test_sending_lock_under_another_name_is_the_same_lock(tmp_path: Path) -> None:
    path, link, calls = tmp_path / "submissions.jsonl", tmp_path / "link.jsonl", list[int]()
    link.symlink_to(path)
    other = FileLock(f"{path}.sending")
    other.acquire()
    with ledger.sending_lock(link, lambda waits: calls.append(waits) or other.release()):
        assert calls == [0]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file that stood for the lock would stay behind a killed process, and bar every other for ever."""

    def not_there(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", not_there)
    path = tmp_path / "submissions.jsonl"
    expected = r"submissions\.jsonl\.{}: this file system has no locks, .*: put both --ledger-file and XDG_STATE_HOME"
    with pytest.raises(InputError, match=expected.format("lock")):
        attempt(path, "a")
    with pytest.raises(InputError, match=expected.format("sending")), ledger.sending_lock(path, lambda waits: None):
        raise AssertionError("nothing may be sent")
    assert not path.exists()


def test_a_lock_that_is_never_released_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "submissions.jsonl"
    monkeypatch.setattr(ledger, "_APPEND_S", 0.1)
    with FileLock(f"{path}.lock"), pytest.raises(InputError, match="held by another process for 0.1 s"):
        attempt(path, "a")
    attempt(path, "b")
    assert [found.id for found in ledger.read_attempts(path)] == ["b"]


def test_table_and_plot_compare_cross_validation_with_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a", recipe="mbr over 5 members", oof=9.75, dev=9.9)
    ledger.append(path, "submitted", "a", ref=41, how="answer")
    ledger.append(path, "score", "a", status="COMPLETE", public_score="9.80", private_score="10.1", reason="")
    attempt(path, "b", recipe={"method": "rover"}, oof=10.5)
    ledger.append(path, "failed", "b", reason="Too many requests")
    with Client() as client:
        assert run(SubmitOptions(ledger=True, ledger_file=path), client) == 0
    header, first, second, plot = capsys.readouterr().out.splitlines()
    assert header.split() == list(COLUMNS)
    cells = ["hw", "submission.csv", "mbr over 5 members", "9.750", "9.900", "9.80", "10.1", "+0.050", "41", "complete"]
    widths = (11, 14, 18, -6, -5, -6, -7, -10, -3, 0)  # negative for numbers, which are right-aligned
    assert first.split(maxsplit=2)[2] == "  ".join(
        cell.ljust(width) if width >= 0 else cell.rjust(-width) for cell, width in zip(cells, widths, strict=True)
    )
    assert "rover" in second and second.endswith("failed: Too many requests")
    assert plot == f"{tmp_path / 'submissions.png'}: 1 scored submissions"
    assert (tmp_path / "submissions.png").read_bytes().startswith(b"\x89PNG")


def test_reason_is_shown_with_an_outcome_that_it_explains(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    for id in ("open", "listed", "scored", "unscorable"):
        attempt(path, id)
        ledger.append(path, "unclear", id, reason="reset")
    for ref, id in enumerate(("listed", "scored", "unscorable"), start=1):
        ledger.append(path, "submitted", id, ref=ref, how="listed")
    ledger.append(path, "score", "scored", status="COMPLETE", public_score="9.5", private_score="", reason="")
    ledger.append(path, "score", "unscorable", status="ERROR", public_score="", private_score="", reason="2 rows")
    table = build_table(ledger.read_attempts(path))
    assert list(table["status"]) == ["open: reset", "submitted", "complete", "error: 2 rows"]
    assert list(table["ref"]) == ["", "1", "2", "3"]


def test_attempts_with_a_score_and_a_distance_are_plotted(tmp_path: Path) -> None:
    path, picture = tmp_path / "submissions.jsonl", tmp_path / "submissions.png"
    for id, blend, score in (("a", {}, "9.5"), ("b", {"oof": 9.0}, "")):
        attempt(path, id, **blend)
        ledger.append(path, "score", id, status="COMPLETE", public_score=score)
    assert plot_attempts(ledger.read_attempts(path), picture) == 0 and not picture.exists()
    for id, blend in (("c", {"dev": 9.9}), ("d", {"oof": 9.0})):
        attempt(path, id, **blend)
        ledger.append(path, "score", id, status="COMPLETE", public_score="9.5")
    assert plot_attempts(ledger.read_attempts(path), picture) == 2 and picture.exists()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("3", 3.0), ("0", 0.0), ("-1", 0.0), ("nan", 0.0), ("inf", math.inf)),
        *(("Sat, 01 Nov 2025 10:00:00 GMT", 0.0), ("soon", None), (None, None)),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


def test_retry_after_a_date() -> None:
    seconds = parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert seconds is not None and 3500 < seconds <= 3600


@pytest.mark.parametrize(
    ("failure", "transient", "may_have_submitted"),
    [
        (Failure("http", status=400, phase="create"), False, False),
        (Failure("http", status=408, phase="create"), True, True),
        (Failure("http", status=429, phase="create"), True, True),
        (Failure("http", status=500, phase="create"), True, True),
        (Failure("http", status=404, phase="unknown"), False, False),
        (Failure("http", status=503, phase="upload"), True, False),
        (Failure("connection", phase="create"), True, True),
        (Failure("connection", phase="before"), True, False),
        (Failure("timeout", phase="unknown"), True, True),
        (Failure("died", phase="unknown"), True, True),
        (Failure("garbled", phase="create"), True, True),
        (Failure("upload"), True, False),
        (Failure("other", phase="create"), False, True),
        (Failure("unclear", status=503, phase="unknown"), False, True),
        (Failure("credentials"), False, False),
    ],
    ids=lambda value: f"{value.kind} {value.status or ''} {value.phase}" if isinstance(value, Failure) else str(value),
)
def test_what_is_tried_again_and_what_may_be_a_submission(
    failure: Failure, transient: bool, may_have_submitted: bool
) -> None:
    assert (failure.transient, failure.may_have_submitted) == (transient, may_have_submitted)


def test_answer_that_was_cut_off_is_no_answer() -> None:
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    _collect_lines(io.StringIO('{"value": 1}\n{"val'), answers)
    assert [answers.get(), answers.get(), answers.empty()] == ['{"value": 1}\n', None, True]


def test_wait_past_the_deadline_is_not_started() -> None:
    budget = TimeBudget(deadline=5.0)
    with pytest.raises(Failure, match="the deadline of 5 s would pass") as caught:
        budget.wait(0, Failure("http", "slow down", 429, "6"))
    assert caught.value.kind == "deadline"


@pytest.mark.parametrize(
    ("competition", "slug"),
    [
        ("11785-hw3p2-f24", "11785-hw3p2-f24"),
        ("https://www.kaggle.com/competitions/11785-hw3p2-f24/leaderboard?x=1", "11785-hw3p2-f24"),
        ("https://www.kaggle.com/c/HW", "hw"),
        ("", None),
        ("owner/hw", None),
    ],
)
def test_slug(competition: str, slug: str | None) -> None:
    options = SubmitOptions(competition=competition)
    if slug is None:
        with pytest.raises(InputError, match="expected the last part of its URL"):
            _ = options.slug
    else:
        assert options.slug == slug


def test_importing_needs_no_client_and_no_network() -> None:
    code = "import sys, submit; sys.exit(any(name in sys.modules for name in ('kaggle', 'kagglesdk', 'requests')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}).returncode == 0
