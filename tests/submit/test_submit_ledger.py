"""The ledger: concurrent writers lose no events; its table and plot."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from registry.errors import InputError
from submit import ledger
from submit.__main__ import SubmitOptions, run
from submit.client import Client, Failure, TimeBudget, parse_retry_after
from submit.ledger_table import COLUMNS

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


def test_torn_line_loses_no_other_event(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a")
    with open(path, "a") as file:
        file.write('{"event": "attempt", "id": "to')
    attempt(path, "b")
    assert [attempt.id for attempt in ledger.read_attempts(path)] == ["a", "b"]
    assert path.read_text().count("\n") == 3


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


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0", 0.0), ("-1", 0.0), ("Sat, 01 Nov 2025 10:00:00 GMT", 0.0), ("soon", None), (None, None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


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
        ("https://www.kaggle.com/c/hw", "hw"),
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
