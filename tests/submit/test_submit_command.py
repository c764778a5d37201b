"""What the command sends, prints and returns, with a client that answers at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_submit_sender import AnsweringClient

from registry.errors import InputError
from submit import ledger
from submit.__main__ import SubmitOptions, run
from submit.client import Failure
from submit.ledger import read_attempts
from submit.submissions import build_description

RESULTS = {"recipe": {"method": "mbr", "weights": {"gru": 0.5, "lstm": 0.5}}, "oof": 9.75, "dev": 9.9}


@pytest.fixture
def client() -> AnsweringClient:
    return AnsweringClient()


@pytest.fixture
def command(client: AnsweringClient, tmp_path: Path) -> Callable[..., int]:
    """`python -m submit` with these options, for the file `submission.csv`."""
    file = tmp_path / "submission.csv"
    file.write_text("index,label\n0,-@-\n")

    def run_command(**options: Any) -> int:
        arguments = {"competition": "hw", "file": file, "ledger_file": tmp_path / "submissions.jsonl", "pause": 0.0}
        return run(SubmitOptions(**(arguments | options)), client)  # type: ignore[arg-type]

    return run_command


def write_results(folder: Path) -> None:
    file = folder / "submission.csv"
    results = RESULTS | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    file.with_name("submission.csv.json").write_text(json.dumps(results))


def raising(failure: Failure) -> Callable[[], None]:
    def fail() -> None:
        raise failure

    return fail


def test_message_is_the_users_or_the_blends_or_the_files_name(
    command: Callable[..., int], client: AnsweringClient, tmp_path: Path
) -> None:
    assert command(message="two\nwords") == 0
    assert command(again=True) == 0
    write_results(tmp_path)
    assert command(again=True) == 0
    messages = [submission["description"].partition("] ")[2] for submission in reversed(client.listed)]
    assert messages == ["two words", "submission.csv", "mbr of 2 members, OOF 9.750, dev 9.900"]
    recorded = [attempt.message for attempt in read_attempts(tmp_path / "submissions.jsonl")]
    assert recorded == ["two\nwords", *messages[1:]]


def test_empty_labels_are_sent_only_if_allowed(
    command: Callable[..., int], client: AnsweringClient, tmp_path: Path
) -> None:
    (tmp_path / "submission.csv").write_text("index,label\n0,\n")
    with pytest.raises(InputError, match="row 0 is empty"):
        command()
    assert not client.calls and command(allow_empty=True) == 0


def test_scores_are_printed_beside_the_blends_distances(
    command: Callable[..., int], client: AnsweringClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path)
    client.during["get_submission"] = lambda: client.listed[0].update(status="COMPLETE", publicScore="9.81")
    assert command(wait=True) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "ref 101: public score 9.81, private score none yet, OOF 9.750, dev 9.900"


def test_submission_that_kaggle_cannot_score_is_an_error(
    command: Callable[..., int], client: AnsweringClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.during["get_submission"] = lambda: client.listed[0].update(status="ERROR")
    assert command(wait=True) == 1
    assert capsys.readouterr().err == "error: Kaggle could not score ref 101: no reason given\n"


def test_ledger_of_a_competition_has_the_scores_that_kaggle_lists(
    command: Callable[..., int], client: AnsweringClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "submissions.jsonl"
    for id, competition in (("a" * 12, "hw"), ("b" * 12, "another")):
        ledger.append(path, "attempt", id, competition=competition, file=f"{competition}.csv", sha256="0" * 64)
    description = build_description("a" * 12, "0" * 64, "")
    client.listed = [{"ref": 7, "description": description, "status": "COMPLETE", "publicScore": "9.81"}]
    assert command(ledger=True) == 0
    _, _, row = capsys.readouterr().out.splitlines()  # credentials, header, and one attempt
    assert row.split()[2:4] == ["hw", "hw.csv"] and row.split()[-2:] == ["7", "complete"] and " 9.81 " in row
    assert [attempt.state for attempt in read_attempts(path)] == ["submitted", "open"]
    assert client.calls == ["find_credentials", "list_submissions"]
    recorded = path.read_text()
    assert command(ledger=True) == 0 and path.read_text() == recorded  # nothing is new


@pytest.mark.parametrize(("with_data", "found"), [(True, "the file is valid"), (False, "its rows were not checked")])
def test_dry_run_without_credentials_reports_what_was_checked(
    command: Callable[..., int],
    client: AnsweringClient,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    with_data: bool,
    found: str,
) -> None:
    (tmp_path / "sample_submission.csv").write_text("index,label\n0,-\n")
    client.during["find_credentials"] = raising(Failure("credentials"))
    assert command(dry_run=True, data=tmp_path if with_data else None) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"dry run: {found}") and "no credentials" in last


@pytest.mark.parametrize("dry_run", [True, False])
def test_other_failures_of_the_client_end_a_dry_run_too(
    command: Callable[..., int], client: AnsweringClient, capsys: pytest.CaptureFixture[str], dry_run: bool
) -> None:
    client.during["find_credentials"] = raising(Failure("connection", "refused"))
    assert command(dry_run=dry_run) == 1
    assert capsys.readouterr().err.startswith("error: no connection to Kaggle (refused)")
    client.during["find_credentials"] = raising(Failure("import", "No module named 'kaggle'"))
    with pytest.raises(InputError, match="the official client cannot be imported .*: install it with"):
        command(dry_run=dry_run)


@pytest.mark.parametrize(
    ("options", "deadline"),
    [({}, 900.0), ({"download": True}, 86400.0), ({"deadline": 0.0}, 0.0), ({"download": True, "deadline": 7.0}, 7.0)],
)
def test_time_limits(options: dict[str, Any], deadline: float) -> None:
    budget = SubmitOptions(timeout=11.0, pause=3.0, **options).time_budget()
    assert (budget.timeout, budget.deadline, budget.pause) == (11.0, deadline, 3.0)
    assert deadline - 5.0 < budget.remaining <= deadline
