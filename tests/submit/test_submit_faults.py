"""Each fault of Kaggle or the network, through the real client: exit status, error message, ledger, submissions."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from typing import Any

import pytest
from conftest import Harness

from submit import worker

RULES = "https://www.kaggle.com/competitions/hw/rules"


@dataclasses.dataclass(frozen=True)
class Case:
    """Faults by endpoint, and the expected outcome."""

    name: str
    faults: dict[str, list[str]]
    status: int
    submissions: int
    message: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def on(endpoint: str, *faults: str) -> dict[str, list[str]]:
    return {endpoint: list(faults)}


SHORT: dict[str, Any] = {"timeout": 0.4}

CASES = [
    Case("none", {}, 0, 1),
    # Refusals: not retried.
    Case("400", on("CreateSubmission", "400"), 1, 0, "daily Submission allowance"),
    Case("401", on("CreateSubmission", "401"), 1, 0, "https://www.kaggle.com/settings/api"),
    Case("403", on("GetSubmissionLimits", "403"), 1, 0, RULES),
    Case("403 at once", on("ListSubmissions", "403"), 1, 0, RULES),
    Case("404", on("ListSubmissions", "404"), 1, 0, "no competition 'hw'"),
    # Transient faults: retried.
    Case("429", on("CreateSubmission", "429"), 0, 1),
    Case("429 with Retry-After", on("StartSubmissionUpload", "429 0"), 0, 1),
    Case("429 with Retry-After past the deadline", on("CreateSubmission", "429 3600"), 1, 0, "deadline"),
    Case("429 every time", on("GetSubmissionLimits", *["429"] * 9), 1, 0, "limits the rate of requests"),
    Case("500", on("StartSubmissionUpload", "500"), 0, 1),
    Case("500, nothing made", on("CreateSubmission", "500"), 0, 1),
    Case("500, but accepted", on("CreateSubmission", "lost-500"), 0, 1),
    Case("500 every time", on("CreateSubmission", *["500"] * 9), 1, 0, "server error"),
    Case("503", on("StartSubmissionUpload", "503", "503"), 0, 1),
    Case("503 at the limits", on("GetSubmissionLimits", "503 0"), 0, 1),
    Case("HTML with 200", on("StartSubmissionUpload", "html"), 0, 1),
    Case("HTML with 200, nothing made", on("CreateSubmission", "html"), 0, 1),
    Case("HTML with 200, but accepted", on("CreateSubmission", "lost-html"), 0, 1),
    Case("HTML every time", on("ListSubmissions", *["html"] * 9), 1, 0, "login page"),
    Case("reset", on("CreateSubmission", "reset"), 0, 1),
    Case("reset every time", on("GetSubmissionLimits", *["reset"] * 9), 1, 0, "no connection"),
    # Failed uploads, for which the client raises nothing.
    Case("reset during upload", on("upload", "reset"), 0, 1),
    Case("upload 403", on("upload", "403"), 0, 1),
    Case("upload 403 every time", on("upload", *["403"] * 9), 1, 0, "could not be uploaded"),
    Case("upload 503", on("upload", "503"), 0, 1),
    Case("upload refused", on("StartSubmissionUpload", "refused"), 0, 1, options=SHORT),
    # The submission may exist, but its answer is lost or has no ref.
    Case("accepted, answer lost", on("CreateSubmission", "lost"), 0, 1),
    Case("accepted, server hangs", on("CreateSubmission", "lost-hang"), 0, 1, options=SHORT),
    Case("no ref, nothing made", on("CreateSubmission", "no-ref"), 1, 0, "no ref"),
    Case(
        "accepted, answer lost, list down",
        on("CreateSubmission", "lost") | on("ListSubmissions", "", *["500"] * 9), 1, 1, "run the same command again",
    ),
    # JSON of other types than expected.
    Case("ref is a text, but accepted", on("CreateSubmission", "lost-type"), 0, 1),
    Case("ref is a text, nothing made", on("CreateSubmission", 'json {"ref": "abc"}'), 0, 1),
    Case("limits are texts", on("GetSubmissionLimits", *['json {"numToday": "x"}'] * 9), 1, 0, "today: expected int"),
    Case("limits are negative", on("GetSubmissionLimits", *['json {"numAllowedNow": -1}'] * 9), 1, 0, "allowed: "),
    Case("list of refs that are texts", on("ListSubmissions", 'json {"submissions": [{"ref": "abc"}]}'), 0, 1),
    Case("list that is none", on("ListSubmissions", *['json {"submissions": 3}'] * 9), 1, 0, "submissions: expected"),
    Case("array instead of a list", on("ListSubmissions", *["json []"] * 9), 1, 0, "other types"),
    Case("upload without an address", on("StartSubmissionUpload", 'json {"token": 3}'), 0, 1),
    Case("429, but accepted", on("CreateSubmission", "lost-429"), 0, 1),
    # A server that hangs.
    Case("hung", on("GetSubmissionLimits", *["hang"] * 9), 1, 0, "deadline", SHORT | {"deadline": 2.0}),
    Case("hung, nothing made", on("CreateSubmission", "hang"), 0, 1, options=SHORT),
    Case("hung, made late", on("CreateSubmission", "late"), 0, 1, options=SHORT | {"settle": 20.0}),
    # After the submission.
    Case("unknown status", on("GetSubmission", "unknown-status", "unknown-status"), 0, 1, options={"wait": True}),
    Case("unknown status in the list", on("ListSubmissions", "unknown-status"), 0, 1),
    Case(
        "faults while waiting",
        on("GetSubmission", "404", "429", "500", "503", "html", "reset", "429 0"), 0, 1, options={"wait": True},
    ),
    Case("wrong types while waiting", on("GetSubmission", "json []", 'json {"ref": []}'), 0, 1, options={"wait": True}),
    Case("forbidden while waiting", on("GetSubmission", "403"), 1, 1, RULES, {"wait": True}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault(harness: Harness, case: Case) -> None:
    harness.kaggle.faults.update({endpoint: list(faults) for endpoint, faults in case.faults.items()})
    outcome = harness.run(**case.options)
    assert (outcome.status, len(harness.kaggle.submissions)) == (case.status, case.submissions), outcome
    assert case.message in outcome.err
    assert outcome.seconds < case.options.get("deadline", 60.0) + 0.5
    harness.check_ledger()
    if outcome.status == 0:
        (submission,) = harness.kaggle.submissions
        assert harness.kaggle.contents[submission["ref"]] == harness.file.read_bytes()
        assert f"ref {submission['ref']}" in outcome.out


def test_run_after_a_lost_answer_checks_before_it_sends(harness: Harness) -> None:
    harness.kaggle.faults["CreateSubmission"] = ["lost"]
    harness.kaggle.faults["ListSubmissions"] = ["", *["500"] * 5]
    assert harness.run().status == 1
    (attempt,) = harness.attempts
    assert attempt.state == "open"
    again = harness.run(wait=True)
    assert again.status == 0
    assert "already submitted as ref 101 by an interrupted run; not sending it again" in again.out
    (attempt,) = harness.attempts
    assert (attempt.ref, attempt.public_score) == (101, "9.81234")
    assert harness.kaggle.requests.count("CreateSubmission") == 1


def test_score_that_never_arrives_ends_at_the_deadline(harness: Harness) -> None:
    harness.kaggle.polls_to_score = 10**9
    outcome = harness.run(wait=True, deadline=2.0)
    assert outcome.status == 1
    assert outcome.seconds < 2.5
    assert "submitted, but no score yet (ref 101" in outcome.err
    assert [(attempt.state, attempt.ref) for attempt in harness.attempts] == [("submitted", 101)]


def test_error_text_of_a_submission_that_cannot_be_scored_is_shown_and_kept(harness: Harness) -> None:
    harness.kaggle.score = {"status": "ERROR", "errorDescription": "Submission must have 2620 rows"}
    outcome = harness.run(wait=True)
    assert outcome.status == 1
    assert outcome.err == "error: Kaggle could not score ref 101: Submission must have 2620 rows\n"
    assert [(attempt.status, attempt.reason) for attempt in harness.attempts] == [
        ("ERROR", "Submission must have 2620 rows")
    ]


def test_both_scores_are_shown(harness: Harness) -> None:
    harness.kaggle.score = {"status": "COMPLETE", "publicScore": "5.58", "privateScore": "5.8"}
    assert "ref 101: public score 5.58, private score 5.8" in harness.run(wait=True).out


def test_nothing_is_sent_at_the_limit(harness: Harness) -> None:
    harness.kaggle.allowed, harness.kaggle.made_before = 0, 10
    outcome = harness.run()
    assert outcome.status == 1
    assert "no submissions left (10 made today, 10 in total, none left)" in outcome.err
    assert not harness.attempts
    assert "StartSubmissionUpload" not in harness.kaggle.requests


def test_zero_counts_mean_a_user_without_a_team_and_no_limit(harness: Harness) -> None:
    harness.kaggle.allowed = 0
    assert harness.run().status == 0
    assert len(harness.kaggle.submissions) == 1


def test_same_content_is_refused_without_again(harness: Harness) -> None:
    assert harness.run().status == 0
    (harness.folder / "copy.csv").write_bytes(harness.file.read_bytes())
    outcome = harness.run(file=harness.folder / "copy.csv")
    assert outcome.status == 2
    assert "as ref 101" in outcome.err and "--again" in outcome.err
    assert harness.run(again=True).status == 0
    assert len(harness.kaggle.submissions) == 2
    harness.check_ledger()


def test_same_content_sent_under_another_ledger_is_refused(harness: Harness) -> None:
    assert harness.run().status == 0
    outcome = harness.run(ledger_file=harness.folder / "other.jsonl")
    assert outcome.status == 2
    assert "as ref 101 by ada, under another ledger" in outcome.err


def test_retry_after_is_honoured(harness: Harness) -> None:
    harness.kaggle.faults["GetSubmissionLimits"] = ["429 1"]
    assert harness.run().seconds >= 1


def test_all_pages_of_the_list_are_read(harness: Harness) -> None:
    harness.kaggle.faults["CreateSubmission"] = ["lost"]
    harness.kaggle.faults["ListSubmissions"] = ["", *["500"] * 5]
    assert harness.run().status == 1
    (ours,) = harness.kaggle.submissions
    others = [ours | {"ref": 1000 + number, "description": "a team mate's"} for number in range(250)]
    harness.kaggle.submissions[:0] = others
    harness.kaggle.allowed = 1000
    assert "already submitted as ref 101 by an interrupted run" in harness.run().out


def test_reading_is_tried_five_times(harness: Harness) -> None:
    harness.kaggle.faults["GetSubmissionLimits"] = ["503"] * 9
    assert harness.run().status == 1
    assert harness.kaggle.requests == ["ListSubmissions", *["GetSubmissionLimits"] * 5]


@pytest.mark.parametrize("submission_faults", [[], ["403"]])
def test_dry_run_checks_the_limits_and_sends_nothing(harness: Harness, submission_faults: list[str]) -> None:
    harness.kaggle.faults["CreateSubmission"].extend(submission_faults)
    outcome = harness.run(dry_run=True)
    assert outcome.status == 0
    assert "10 submissions left today" in outcome.out
    assert harness.kaggle.requests == ["ListSubmissions", "GetSubmissionLimits"]
    assert not harness.attempts


def competition_submit(prepared: bool) -> None:
    """As the client's function fails: before its last request is prepared, or after."""
    if prepared:
        submit_request = "file and description"
        assert submit_request
    raise ConnectionResetError


@pytest.mark.parametrize(("prepared", "phase"), [(False, "before"), (True, "create")])
def test_an_error_once_the_last_request_is_prepared_may_be_of_a_submission(prepared: bool, phase: str) -> None:
    """The client may have its answer, and fail while it closes the connection."""
    with pytest.raises(ConnectionResetError) as caught:
        competition_submit(prepared)
    assert worker._describe(caught.value)["phase"] == phase


@pytest.mark.parametrize(
    ("functions", "phase"),
    [
        (["upload_complete", "create_submission"], "create"),
        (["submit", "upload_complete"], "upload"),
        (["submit"], "before"),
    ],
)
def test_latest_phase_counts(functions: list[str], phase: str) -> None:
    assert worker.find_phase(functions) == phase


@pytest.mark.parametrize(("call", "phase"), [("submit", "create"), ("get_limits", "before")])
def test_a_time_limit_that_ends_after_the_call_may_be_of_a_submission(
    call: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    worker._exit_on_timeout(threading.get_ident(), call)
    assert statuses == [worker.TIMEOUT_STATUS[phase]]
