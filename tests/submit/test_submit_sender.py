"""What is sent and recorded, with a client that answers at once: no processes, no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.errors import InputError
from submit import ledger
from submit.check import CheckedFile, check_file
from submit.client import Failure, TimeBudget
from submit.ledger import Attempt, read_attempts
from submit.pending import PendingAttempts
from submit.send import MAX_SENDS, Sender
from submit.submissions import build_description, parse_scores, parse_status

KEY = "0123456789-the-key"


@dataclass
class AnsweringClient:
    """The answers of Kaggle to one user; a submission is listed at once."""

    listed: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=lambda: {"today": 1, "total": 1, "allowed": 5})
    during: dict[str, Callable[[], object]] = field(default_factory=dict)
    """What happens during a call, before it is answered; it may raise."""
    answer: dict[str, Any] = field(default_factory=dict)
    """What differs in the answer to a submission."""
    calls: list[str] = field(default_factory=list)
    time_limits: list[float] = field(default_factory=list)

    def query(self, call: str, budget: TimeBudget, **arguments: Any) -> Any:
        return self.call(call, budget, budget.timeout, **arguments)

    def call(self, call: str, budget: TimeBudget, time_limit: float, **arguments: Any) -> Any:
        self.calls.append(call)
        self.time_limits.append(time_limit)
        if call in self.during:
            self.during[call]()
        if call == "find_credentials":
            return {"version": "2.2.5", "method": "LEGACY_API_KEY", "user": "ada", "token": None, "key": "KAGGLE_KEY"}
        if call == "get_limits":
            return self.limits
        if call == "get_submission":
            return self.listed[0]
        if call == "list_submissions":
            return {"submissions": list(self.listed), "next": ""}
        ref = 101 + len(self.listed)
        answer = {"ref": ref, "message": "", "printed": "", "uploaded": True} | self.answer
        if answer["ref"]:
            self.listed.insert(0, {"ref": ref, "description": arguments["description"]})
        return answer


@pytest.fixture
def client() -> AnsweringClient:
    return AnsweringClient()


@pytest.fixture
def sender(client: AnsweringClient, tmp_path: Path) -> Sender:
    path = tmp_path / "submissions.jsonl"
    return Sender(client, TimeBudget(pause=0.0), "hw", path, 0.05, lambda line: None)  # type: ignore[arg-type]


@pytest.fixture
def checked(tmp_path: Path) -> CheckedFile:
    path = tmp_path / "submission.csv"
    path.write_text("index,label\n0,-@-\n")
    return check_file(path)


def record(sender: Sender, id: str, sha256: str, competition: str = "hw") -> dict[str, Any]:
    """An attempt of an earlier run without an outcome; returns what Kaggle would list if it had arrived."""
    ledger.append(sender.ledger_path, "attempt", id, competition=competition, file="submission.csv", sha256=sha256)
    return {"ref": 7, "description": build_description(id, sha256, "")}


def attempt_of(sender: Sender, id: str) -> Attempt:
    return next(attempt for attempt in read_attempts(sender.ledger_path) if attempt.id == id)


def refusals(sender: Sender, checked: CheckedFile) -> list[Callable[[], object]]:
    """A submission and a dry run, which refuse the same."""
    return [
        lambda: sender.submit(checked, "", allow_duplicate=False),
        lambda: sender.dry_run(checked, allow_duplicate=False),
    ]


def test_file_is_sent_although_an_interrupted_attempt_of_another_file_has_arrived(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.listed.append(record(sender, "a" * 12, "0" * 64))
    sent = sender.submit(checked, "", allow_duplicate=False)
    assert (sent.sha256, sent.ref, sent.state) == (checked.sha256, 102, "submitted")
    assert (attempt_of(sender, "a" * 12).state, attempt_of(sender, "a" * 12).ref) == ("submitted", 7)


def test_interrupted_attempt_that_has_arrived_is_returned_even_with_again(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.listed.append(record(sender, "a" * 12, checked.sha256))
    assert sender.submit(checked, "", allow_duplicate=True).ref == 7
    assert client.calls == ["list_submissions"]


def test_attempts_for_another_competition_are_left_alone(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    record(sender, "a" * 12, checked.sha256, competition="another")
    record(sender, "b" * 12, checked.sha256, competition="another")
    ledger.append(sender.ledger_path, "submitted", "b" * 12, ref=3, how="answer")
    assert sender.submit(checked, "", allow_duplicate=False).ref == 101
    assert attempt_of(sender, "a" * 12).state == "open"


def test_failed_attempt_that_is_listed_later_was_submitted_and_is_not_sent_again(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.listed.append(record(sender, "a" * 12, checked.sha256))
    ledger.append(sender.ledger_path, "failed", "a" * 12, reason="not among Kaggle's submissions")
    assert (sender.submit(checked, "", allow_duplicate=False).ref, client.calls) == (7, ["list_submissions"])
    assert attempt_of(sender, "a" * 12).state == "submitted"


def test_list_requested_before_the_settle_time_has_passed_is_not_the_last_one(
    sender: Sender, client: AnsweringClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows what Kaggle had when it was requested, however long its answer took."""
    now, submission = 1000.0, record(sender, "a" * 12, "0" * 64)

    def answer_slowly() -> None:
        nonlocal now
        now += 60.0
        if client.calls.count("list_submissions") == 2:
            client.listed.append(submission)

    client.during["list_submissions"] = answer_slowly
    monkeypatch.setattr("submit.send.time", SimpleNamespace(monotonic=lambda: now))
    sender.settle_seconds = 60.0
    (arrived,), _ = sender.reconcile()
    assert (arrived.id, arrived.ref, arrived.state) == ("a" * 12, 7, "submitted")


@pytest.mark.parametrize("settle", [0.0, 0.05])
def test_attempt_that_is_never_listed_has_failed_after_the_settle_time(sender: Sender, settle: float) -> None:
    record(sender, "a" * 12, "0" * 64)
    sender.settle_seconds = settle
    assert sender.reconcile() == ([], [])
    found = attempt_of(sender, "a" * 12)
    assert (found.state, found.reason) == ("failed", f"not among Kaggle's submissions within {settle:g} s")


def test_file_that_changes_after_the_check_is_not_sent(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.during["get_limits"] = lambda: checked.path.write_text("index,label\n0,-G-\n")
    with pytest.raises(InputError, match="submission.csv: changed since it was checked, nothing was sent"):
        sender.submit(checked, "", allow_duplicate=False)
    assert "submit" not in client.calls and not read_attempts(sender.ledger_path)


@pytest.mark.parametrize(
    ("today", "total", "allowed", "sent"), [(0, 0, 0, True), (5, 9, 0, False), (0, 9, 0, False), (5, 9, 1, True)]
)
def test_daily_limit(
    sender: Sender, client: AnsweringClient, checked: CheckedFile, today: int, total: int, allowed: int, sent: bool
) -> None:
    client.limits = {"today": today, "total": total, "allowed": allowed}
    if sent:
        sender.dry_run(checked, allow_duplicate=False)
        assert sender.submit(checked, "", allow_duplicate=False).ref == 101
        return
    for refused in refusals(sender, checked):
        with pytest.raises(Failure, match=f"{today} made today, {total} in total, none left") as caught:
            refused()
        assert caught.value.kind == "limit" and "submit" not in client.calls


def test_failed_tries_are_limited_and_each_is_an_attempt(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    def fail() -> None:
        raise Failure("http", "out of order", 503, phase="upload")

    client.during["submit"] = fail
    with pytest.raises(Failure, match="out of order"):
        sender.submit(checked, "", allow_duplicate=False)
    assert client.calls.count("submit") == MAX_SENDS == 3
    attempts = read_attempts(sender.ledger_path)
    assert [(attempt.state, attempt.reason) for attempt in attempts] == [("failed", "out of order")] * 3
    assert PendingAttempts("hw").find(checked.sha256) == set()  # a run with another ledger need not look for them


def test_upload_that_failed_made_no_submission(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.answer = {"ref": 0, "uploaded": False, "message": "could not be submitted", "printed": "403 Forbidden"}
    with pytest.raises(Failure, match="403 Forbidden") as caught:
        sender.submit(checked, "", allow_duplicate=False)
    attempts = read_attempts(sender.ledger_path)
    assert [(attempt.state, attempt.reason) for attempt in attempts] == [("failed", "403 Forbidden")] * 3
    assert caught.value.kind == "upload" and client.calls.count("list_submissions") == 1


def test_answer_without_a_ref_is_looked_up_before_it_is_a_failure(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    client.answer = {"ref": 0}
    with pytest.raises(Failure, match="no ref in Kaggle's answer: no reason given"):
        sender.submit(checked, "", allow_duplicate=False)
    assert [attempt.state for attempt in read_attempts(sender.ledger_path)] == ["failed"]
    assert client.calls.count("list_submissions") > 1 and client.calls.count("submit") == 1


def test_interrupted_try_is_open_and_recorded_for_all_ledgers_before_it_is_sent(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    def interrupt() -> None:
        (attempt,) = read_attempts(sender.ledger_path)
        assert PendingAttempts("hw").find(checked.sha256) == {attempt.id}
        raise KeyboardInterrupt

    client.during["submit"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        sender.submit(checked, "", allow_duplicate=False)
    (attempt,) = read_attempts(sender.ledger_path)
    assert (attempt.state, attempt.reason) == ("open", "interrupted: KeyboardInterrupt")


@pytest.mark.parametrize(("timeout", "expected"), [(1.0, 3.0), (1000.0, 600.0)])
def test_time_is_left_to_check_whether_a_submission_arrived(
    sender: Sender, client: AnsweringClient, checked: CheckedFile, timeout: float, expected: float
) -> None:
    sender.budget = TimeBudget(timeout, deadline=900.0, pause=0.0)
    sender.submit(checked, "", allow_duplicate=False)
    assert client.time_limits[client.calls.index("submit")] == pytest.approx(expected, rel=0.05)


def test_same_content_is_refused_with_its_score_by_a_dry_run_too(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    sent = sender.submit(checked, "", allow_duplicate=False)
    ledger.append(sender.ledger_path, "score", sent.id, status="COMPLETE", public_score="9.5")
    client.listed[0] |= {"status": "COMPLETE", "publicScore": "9.5"}
    for refused in refusals(sender, checked):
        with pytest.raises(InputError, match=f"submitted on {sent.date} as ref 101, public score 9.5; pass --again"):
            refused()
    sender.dry_run(checked, allow_duplicate=True)
    assert client.calls.count("submit") == 1


def test_message_is_sent_and_recorded_without_secrets(
    sender: Sender, client: AnsweringClient, checked: CheckedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    sent = sender.submit(checked, f"two models,\n  key {KEY}", allow_duplicate=False)
    description = f"[id {sent.id}, file {checked.sha256[:16]}] two models, key [redacted]"
    assert client.listed[0]["description"] == description
    assert KEY not in sender.ledger_path.read_text()


def test_names_that_are_not_utf_8_leave_a_ledger_that_can_be_read(
    sender: Sender, client: AnsweringClient, checked: CheckedFile
) -> None:
    path = checked.path.rename(checked.path.with_name("caf\udce9.csv"))
    sent = sender.submit(check_file(path), path.name, allow_duplicate=False)
    assert client.listed[0]["description"].endswith("] caf?.csv")
    assert (attempt_of(sender, sent.id).file, attempt_of(sender, sent.id).ref) == (f"{path.parent}/caf?.csv", 101)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("SUBMISSION_STATUS_COMPLETE", "COMPLETE"), ("error", "ERROR"), (None, "PENDING"), ("RESCORING", "RESCORING")],
)
def test_status_in_kaggles_spellings(status: str | None, expected: str) -> None:
    assert parse_status({"status": status}) == expected


def test_score_of_zero_is_a_score() -> None:
    scores = parse_scores({"status": "COMPLETE", "publicScore": 0.0, "privateScore": None})
    assert scores == {"status": "COMPLETE", "public_score": "0.0", "private_score": "", "reason": ""}
