"""Each fault of Kaggle or the network, through the real client: exit status, one line, true ledger, one submission."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import Desk

RULES = "https://www.kaggle.com/competitions/hw/rules"


@dataclasses.dataclass(frozen=True)
class Case:
    """Faults by endpoint, and what must come of them."""

    name: str
    faults: dict[str, list[str]]
    status: int
    submissions: int
    said: str = ""
    options: dict[str, object] = dataclasses.field(default_factory=dict)


def on(endpoint: str, *faults: str) -> dict[str, list[str]]:
    return {endpoint: list(faults)}


SHORT = {"timeout": 0.4}

CASES = [
    Case("none", {}, 0, 1),
    # Refusals: nothing is tried again.
    Case("400", on("CreateSubmission", "400"), 1, 0, "daily Submission allowance"),
    Case("401", on("CreateSubmission", "401"), 1, 0, "https://www.kaggle.com/settings/api"),
    Case("403", on("GetSubmissionLimits", "403"), 1, 0, RULES),
    Case("403 at once", on("ListSubmissions", "403"), 1, 0, RULES),
    Case("404", on("ListSubmissions", "404"), 1, 0, "no competition 'hw'"),
    # Passing faults: tried again.
    Case("429", on("CreateSubmission", "429"), 0, 1),
    Case("429 with Retry-After", on("StartSubmissionUpload", "429 0"), 0, 1),
    Case("429 with Retry-After past the deadline", on("CreateSubmission", "429 3600"), 1, 0, "deadline"),
    Case("429 for ever", on("GetSubmissionLimits", *["429"] * 9), 1, 0, "fewer requests"),
    Case("500", on("StartSubmissionUpload", "500"), 0, 1),
    Case("500, nothing made", on("CreateSubmission", "500"), 0, 1),
    Case("500, but accepted", on("CreateSubmission", "lost-500"), 0, 1),
    Case("500 for ever", on("CreateSubmission", *["500"] * 9), 1, 0, "a fault of its own"),
    Case("503", on("StartSubmissionUpload", "503", "503"), 0, 1),
    Case("503 at the limits", on("GetSubmissionLimits", "503 0"), 0, 1),
    Case("HTML with 200", on("StartSubmissionUpload", "html"), 0, 1),
    Case("HTML with 200, nothing made", on("CreateSubmission", "html"), 0, 1),
    Case("HTML with 200, but accepted", on("CreateSubmission", "lost-html"), 0, 1),
    Case("HTML for ever", on("ListSubmissions", *["html"] * 9), 1, 0, "login page"),
    Case("reset", on("CreateSubmission", "reset"), 0, 1),
    Case("reset for ever", on("GetSubmissionLimits", *["reset"] * 9), 1, 0, "no connection"),
    # Uploads, of whose failure the client raises nothing.
    Case("reset during upload", on("upload", "reset"), 0, 1),
    Case("upload 403", on("upload", "403"), 0, 1),
    Case("upload 403 for ever", on("upload", *["403"] * 9), 1, 0, "could not be uploaded"),
    Case("upload 503", on("upload", "503"), 0, 1),
    Case("upload refused", on("StartSubmissionUpload", "refused"), 0, 1, options=SHORT),
    # The submission exists and nobody said so.
    Case("accepted, answer lost", on("CreateSubmission", "lost"), 0, 1),
    Case("accepted, server hangs", on("CreateSubmission", "lost-hang"), 0, 1, options=SHORT),
    Case("no ref, nothing made", on("CreateSubmission", "no-ref"), 1, 0, "no ref"),
    Case(
        "accepted, answer lost, list down",
        on("CreateSubmission", "lost") | on("ListSubmissions", "", *["500"] * 9), 1, 1, "run the same command again",
    ),
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
    Case("forbidden while waiting", on("GetSubmission", "403"), 1, 1, RULES, {"wait": True}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault(desk: Desk, case: Case) -> None:
    desk.kaggle.faults.update({endpoint: list(faults) for endpoint, faults in case.faults.items()})
    outcome = desk.run(**case.options)
    assert (outcome.status, len(desk.kaggle.submissions)) == (case.status, case.submissions), outcome
    assert case.said in outcome.err
    assert outcome.seconds < case.options.get("deadline", 60.0) + 0.5
    desk.expect_agreement()
    if outcome.status == 0:
        (submission,) = desk.kaggle.submissions
        assert desk.kaggle.contents[submission["ref"]] == desk.file.read_bytes()
        assert f"ref {submission['ref']}" in outcome.out


def test_run_after_a_lost_answer_looks_before_it_sends(desk: Desk) -> None:
    desk.kaggle.faults["CreateSubmission"] = ["lost"]
    desk.kaggle.faults["ListSubmissions"] = ["", *["500"] * 5]
    assert desk.run().status == 1
    (attempt,) = desk.attempts
    assert attempt.state == "open"
    again = desk.run(wait=True)
    assert again.status == 0
    assert "had arrived as ref 101: nothing is sent" in again.out
    (attempt,) = desk.attempts
    assert (attempt.ref, attempt.public_score) == (101, "9.81234")
    assert desk.kaggle.requests.count("CreateSubmission") == 1


def test_score_that_never_arrives_ends_at_the_deadline(desk: Desk) -> None:
    desk.kaggle.polls_to_score = 10**9
    outcome = desk.run(wait=True, deadline=2.0)
    assert outcome.status == 1
    assert outcome.seconds < 2.5
    assert "submitted, but no score yet (ref 101" in outcome.err
    assert [(attempt.state, attempt.ref) for attempt in desk.attempts] == [("submitted", 101)]


def test_error_text_of_a_submission_that_cannot_be_scored_is_shown_and_kept(desk: Desk) -> None:
    desk.kaggle.score = {"status": "ERROR", "errorDescription": "Submission must have 2620 rows"}
    outcome = desk.run(wait=True)
    assert outcome.status == 1
    assert outcome.err == "error: Kaggle could not score ref 101: Submission must have 2620 rows\n"
    assert [(attempt.status, attempt.reason) for attempt in desk.attempts] == [
        ("ERROR", "Submission must have 2620 rows")
    ]


def test_both_scores_are_shown(desk: Desk) -> None:
    desk.kaggle.score = {"status": "COMPLETE", "publicScore": "5.58", "privateScore": "5.8"}
    assert "ref 101: public score 5.58, private score 5.8" in desk.run(wait=True).out


def test_nothing_is_sent_at_the_limit(desk: Desk) -> None:
    desk.kaggle.allowed, desk.kaggle.made_before = 0, 10
    outcome = desk.run()
    assert outcome.status == 1
    assert "no submissions left (10 made today, 10 in all, none left)" in outcome.err
    assert not desk.attempts
    assert "StartSubmissionUpload" not in desk.kaggle.requests


def test_zeros_all_over_are_a_user_without_a_team_and_no_limit(desk: Desk) -> None:
    desk.kaggle.allowed = 0
    assert desk.run().status == 0
    assert len(desk.kaggle.submissions) == 1


def test_same_content_is_refused_until_again(desk: Desk) -> None:
    assert desk.run().status == 0
    (desk.folder / "copy.csv").write_bytes(desk.file.read_bytes())
    outcome = desk.run(file=desk.folder / "copy.csv")
    assert outcome.status == 2
    assert "as ref 101" in outcome.err and "--again" in outcome.err
    assert desk.run(again=True).status == 0
    assert len(desk.kaggle.submissions) == 2
    desk.expect_agreement()


def test_same_content_sent_under_another_ledger_is_refused(desk: Desk) -> None:
    assert desk.run().status == 0
    outcome = desk.run(ledger_file=desk.folder / "other.jsonl")
    assert outcome.status == 2
    assert "as ref 101 by ada, under another ledger" in outcome.err


def test_retry_after_is_honoured(desk: Desk) -> None:
    desk.kaggle.faults["GetSubmissionLimits"] = ["429 1"]
    assert desk.run().seconds >= 1


def test_list_is_read_to_its_end(desk: Desk) -> None:
    desk.kaggle.faults["CreateSubmission"] = ["lost"]
    desk.kaggle.faults["ListSubmissions"] = ["", *["500"] * 5]
    assert desk.run().status == 1
    (ours,) = desk.kaggle.submissions
    others = [ours | {"ref": 1000 + number, "description": "a team mate's"} for number in range(250)]
    desk.kaggle.submissions[:0] = others
    desk.kaggle.allowed = 1000
    assert "had arrived as ref 101" in desk.run().out


@pytest.mark.parametrize("rehearsed", [{}, {"CreateSubmission": ["403"]}])
def test_dry_run_asks_and_sends_nothing(desk: Desk, rehearsed: dict[str, list[str]]) -> None:
    desk.kaggle.faults.update(rehearsed)
    outcome = desk.run(dry_run=True)
    assert outcome.status == 0
    assert "10 submissions left today" in outcome.out
    assert desk.kaggle.requests == ["ListSubmissions", "GetSubmissionLimits"]
    assert not desk.attempts
