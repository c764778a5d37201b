"""Our submissions in Kaggle's list, what it says about each, and the tag by which an attempt is recognized."""

from __future__ import annotations

import re
from typing import Any

from submit.client import Client, TimeBudget

_MAX_PAGES = 10
"""Maximum number of pages of the submission list, newest first, with a hundred submissions each."""

_SCORES = {"public_score": "publicScore", "private_score": "privateScore", "reason": "errorDescription"}

_TAG = re.compile(r"\[id ([0-9a-f]{12}), file ([0-9a-f]{16})\]")


def list_submissions(client: Client, budget: TimeBudget, competition: str) -> list[dict[str, Any]]:
    """List our submissions to a competition, newest first. Raises `Failure`."""
    submissions: list[dict[str, Any]] = []
    token = ""
    for _ in range(_MAX_PAGES):
        page = client.query("list_submissions", budget, competition=competition, token=token)
        submissions += page["submissions"]
        token = page["next"]
        if not token:
            break
    return submissions


def parse_status(submission: dict[str, Any]) -> str:
    """The status in capitals: `PENDING`, `COMPLETE`, `ERROR`, or one that we do not know."""
    # It may be a protobuf name with its prefix, a plain name, or absent for the default, PENDING.
    return str(submission.get("status") or "PENDING").upper().removeprefix("SUBMISSION_STATUS_")


def parse_scores(submission: dict[str, Any]) -> dict[str, str]:
    """Status, scores and error text, by their names in the ledger; empty if Kaggle gives none."""
    texts = {name: "" if submission.get(key) is None else str(submission[key]) for name, key in _SCORES.items()}
    return {"status": parse_status(submission)} | texts


def build_description(id: str, sha256: str, message: str) -> str:
    """Build a submission's description. The tag comes first, so that a length limit cuts off the message instead.

    Surrogates, as in a file name that is not UTF-8, cannot be sent, and become question marks.
    """
    return f"[id {id}, file {sha256[:16]}] {' '.join(message.split())}".encode(errors="replace").decode()


def parse_tag(submission: dict[str, Any]) -> tuple[str, str]:
    """Parse the attempt id and the start of the file's hash from a description; both empty if it is not one of ours."""
    tag = _TAG.search(submission.get("description") or "")
    return (tag[1], tag[2]) if tag else ("", "")
