"""The ledger: no event lost or torn whoever writes when, and what it looks like to the eye."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from registry.errors import InputError
from submit import ledger
from submit import ledger_table as report
from submit.__main__ import Options, run
from submit.client import Client, Failure, Patience, _seconds

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


def test_processes_writing_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], cwd=ROOT) for number in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {event["id"] for event in events} == {f"{who}-{number}" for who in range(3) for number in range(100)}
    assert len(events) == 300


def test_events_of_an_attempt_add_up(tmp_path: Path) -> None:
    path = tmp_path / "new" / "submissions.jsonl"
    attempt(path, "a", oof=9.9)
    (open_one,) = ledger.attempts(path)
    assert (open_one.state, open_one.ref, open_one.until - open_one.time) == ("open", None, pytest.approx(9.0))
    ledger.append(path, "unclear", "a", reason="reset")
    assert ledger.attempts(path)[0].until < open_one.until
    ledger.append(path, "failed", "a", reason="not there")
    assert ledger.attempts(path)[0].state == "failed"
    ledger.append(path, "submitted", "a", ref=7, how="listed")  # later knowledge wins
    ledger.append(path, "score", "a", status="COMPLETE", public_score="9.5", private_score="", reason="")
    (done,) = ledger.attempts(path)
    assert (done.state, done.ref, done.public_score, done.blend) == ("submitted", 7, "9.5", {"oof": 9.9})


def test_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a")
    with open(path, "a") as file:
        file.write('{"event": "attempt", "id": "to')
    attempt(path, "b")
    assert [each.id for each in ledger.attempts(path)] == ["a", "b"]
    assert path.read_text().count("\n") == 3


def test_missing_ledger_has_no_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "submissions.jsonl"
    with Client() as client:
        assert run(Options(ledger=True, ledger_file=path), client) == 0
    assert capsys.readouterr().out == f"{path} has no attempts\n"
    assert not path.exists()


def test_right_to_send_is_held_by_one(tmp_path: Path) -> None:
    path, turns = tmp_path / "submissions.jsonl", []

    def rest(turn: int) -> None:
        turns.append(turn)
        if turn == 2:
            other.release()

    other = FileLock(f"{path}.sending")
    other.acquire()
    with ledger.sending(path, rest):
        assert turns == [0, 1, 2]


def test_table_and_picture_set_cross_validation_against_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "submissions.jsonl"
    attempt(path, "a", recipe="mbr over 5 members", oof=9.75, dev=9.9)
    ledger.append(path, "submitted", "a", ref=41, how="answer")
    ledger.append(path, "score", "a", status="COMPLETE", public_score="9.80", private_score="10.1", reason="")
    attempt(path, "b", recipe={"method": "rover"}, oof=10.5)
    ledger.append(path, "failed", "b", reason="Too many requests")
    with Client() as client:
        assert run(Options(ledger=True, ledger_file=path), client) == 0
    header, first, second, picture = capsys.readouterr().out.splitlines()
    assert header.split() == list(report._COLUMNS)
    cells = ["hw", "submission.csv", "mbr over 5 members", "9.750", "9.900", "9.80", "10.1", "+0.050", "41", "complete"]
    assert first.split(maxsplit=2)[2] == "  ".join(
        cell.ljust(width) for cell, width in zip(cells, (11, 14, 18, 6, 5, 6, 7, 10, 3, 0), strict=True)
    )
    assert "rover" in second and second.endswith("failed: Too many requests")
    assert picture == f"{tmp_path / 'submissions.png'}: 1 scored submissions"
    assert (tmp_path / "submissions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0", 0.0), ("-1", 0.0), ("Sat, 01 Nov 2025 10:00:00 GMT", 0.0), ("soon", None), (None, None)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert _seconds(header) == seconds


def test_patience_does_not_begin_a_rest_it_cannot_end() -> None:
    patience = Patience(deadline=5.0)
    with pytest.raises(Failure, match="the deadline of 5 s would pass") as caught:
        patience.rest(0, Failure("http", "slow down", 429, "6"))
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
    options = Options(competition=competition)
    if slug is None:
        with pytest.raises(InputError, match="expected the last part of its address"):
            _ = options.slug
    else:
        assert options.slug == slug


def test_importing_needs_no_client_and_no_network() -> None:
    code = "import sys, submit; sys.exit(any(name in sys.modules for name in ('kaggle', 'kagglesdk', 'requests')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}).returncode == 0
