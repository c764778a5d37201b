"""From a checked file to a submission at Kaggle: never two where one was intended, with a correct ledger throughout.

The order of the steps matters:

1. Under the sending lock, open attempts of earlier runs are looked up in Kaggle's list, by the unique id in their
   description. An attempt found there is recorded; one that is missing counts as never arrived only after it had
   `settle` seconds to arrive.
2. The limits and earlier submissions of the same content are checked, so that nothing is sent in vain.
3. The attempt is in the ledger, flushed to disk, before it is sent. Only a `ref` above 0 is a success.
4. After a failure before the client's last request, or a refusal by Kaggle, no submission exists: the next try is a new
   attempt. After any other failure a submission may exist, and step 1 decides.

`submit.check` defines what a file must look like; `submit.client` limits the time of calls.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InputError
from submit import ledger
from submit.advice import shorten
from submit.check import CheckedFile, is_unchanged
from submit.client import Client, Failure, TimeBudget
from submit.ledger import Attempt

MAX_SENDS = 3
"""How often one run may send, each time after proof that the previous try made no submission."""

_MAX_PAGES = 10
"""How many pages of a hundred submissions are read, newest first."""


@dataclass
class Sender:
    """Submits to one competition, and keeps the ledger in agreement with Kaggle."""

    client: Client
    budget: TimeBudget
    competition: str
    ledger: Path
    settle: float
    """Seconds after which a submission that Kaggle does not list counts as never arrived."""
    log: Callable[[str], None]
    """Prints a line of progress."""

    def submit(self, checked: CheckedFile, message: str, again: bool) -> Attempt:
        """Submit once; return the attempt that made the submission, possibly one of an interrupted earlier run.

        Raises `InputError` for content submitted before (unless `again`), `Failure` for any failure at Kaggle.
        """
        with ledger.sending_lock(self.ledger, self._wait_for_other):
            for attempt in self._prepare(checked, again):
                self.log(f"this file had arrived as ref {attempt.ref}: nothing is sent")
                return attempt
            sends = 0
            while True:
                try:
                    return self._send(checked, message)
                except Failure as failure:
                    sends += 1
                    if not failure.transient or sends == MAX_SENDS:
                        raise
                    self.log(f"no submission was made ({shorten(str(failure))}): trying again")
                    self.budget.wait(sends - 1, failure)

    def dry_run(self, checked: CheckedFile, again: bool) -> None:
        """Do, and raise, everything that `submit` does before it sends."""
        with ledger.sending_lock(self.ledger, self._wait_for_other):
            self._prepare(checked, again)

    def _prepare(self, checked: CheckedFile, again: bool) -> list[Attempt]:
        """Reconcile, then check duplicates and limits; return attempts of this content found to have arrived."""
        arrived, listed = self.reconcile()
        if same := [attempt for attempt in arrived if attempt.sha256 == checked.sha256]:
            return same
        if not again:
            self._refuse_duplicate(checked.sha256, listed)
        self._check_limits()
        return []

    def _check_limits(self) -> None:
        """Raise `Failure("limit")` when no submission is left today."""
        limits = self.client.query("limits", self.budget, competition=self.competition)
        if limits["allowed"] > 0:
            self.log(f"limits: {limits['allowed']} submissions left today, {limits['today']} made")
        elif limits["today"] or limits["total"]:
            raise Failure("limit", f"{limits['today']} made today, {limits['total']} in total, none left")
        else:
            # Kaggle answers 0 for every count to a user without a team, as before one's first submission.
            self.log("limits: Kaggle counts no submissions of yours yet")

    def _refuse_duplicate(self, sha256: str, listed: list[dict[str, Any]]) -> None:
        """Raise `InputError` when the ledger or Kaggle's list has this content already."""
        for attempt in self._attempts():
            if attempt.sha256 == sha256 and attempt.state == "submitted":
                score = f", public score {attempt.public_score}" if attempt.public_score else ""
                raise InputError(
                    f"this content was submitted on {attempt.date} as ref {attempt.ref}{score}; "
                    f"pass --again to submit it once more"
                )
        for submission in listed:
            if _tag(submission)[1] == sha256[:16]:
                user = submission.get("submittedBy") or "you"
                raise InputError(
                    f"this content was submitted as ref {submission['ref']} by {user}, under another ledger; "
                    f"pass --again to submit it once more"
                )

    def reconcile(self) -> tuple[list[Attempt], list[dict[str, Any]]]:
        """Settle every open attempt by Kaggle's list; return the attempts found to have arrived, and the list.

        Raises `Failure("unclear")` when the deadline passes before all are settled.
        """
        arrived, start, waits = [], time.time(), 0
        while True:
            requested = time.time()  # the list may be as old as the request, however long the answer took
            listed = self._submissions()
            arrived += self._record_listed(listed)
            for attempt in self._open_attempts():
                if requested >= min(attempt.sent_before, start) + self.settle:
                    reason = f"not among Kaggle's submissions {self.settle:g} s after it was sent"
                    ledger.append(self.ledger, "failed", attempt.id, reason=reason)
            if not (still_open := self._open_attempts()):
                return arrived, listed
            if not waits:
                self.log(f"{len(still_open)} attempt(s) without an outcome: looking for them in Kaggle's list")
            try:
                self.budget.wait(waits)
            except Failure as failure:
                raise Failure("unclear", str(failure)) from failure
            waits += 1

    def _record_listed(self, listed: list[dict[str, Any]]) -> list[Attempt]:
        """Record what Kaggle's list says about our attempts; return those not known to have arrived until now."""
        known = {attempt.id: attempt for attempt in self._attempts()}
        arrived = []
        for submission in listed:
            attempt = known.get(_tag(submission)[0])
            if attempt is None:
                continue
            if attempt.state != "submitted":
                ledger.append(self.ledger, "submitted", attempt.id, ref=int(submission["ref"]), how="listed")
                arrived.append(attempt.id)
            self._record_score(attempt, submission)
        return [self._attempt(id) for id in arrived]

    def wait_for_score(self, attempt: Attempt) -> Attempt:
        """Wait for the score of a submitted attempt; raise `Failure("unscored")` at the deadline."""
        waits, failure = 0, None
        while True:
            try:
                answer = self.client.call("submission", self.budget, self.budget.timeout, ref=attempt.ref)
                failure = None
            except Failure as error:
                # Kaggle's services learn of a submission one by one: "not found" right after sending means "not yet".
                if not error.transient and error.status != 404:
                    raise
                failure = error
            else:
                status = _status(answer)
                if status in ("COMPLETE", "ERROR"):
                    self._record_score(attempt, answer)
                    return self._attempt(attempt.id)
                if not waits:
                    self.log(f"ref {attempt.ref}: {status.lower()}, waiting for the score")
            try:
                self.budget.wait(waits, failure)
            except Failure as late:
                raise Failure("unscored", f"ref {attempt.ref}: {late}") from late
            waits += 1

    def update_ledger(self) -> None:
        """Record the outcomes and scores in Kaggle's list that the ledger does not have yet."""
        with ledger.sending_lock(self.ledger, self._wait_for_other):
            self.reconcile()

    def _send(self, checked: CheckedFile, message: str) -> Attempt:
        """Make one attempt and return it; after a `Failure` there is no submission, unless its kind is `unclear`."""
        if not is_unchanged(checked):
            raise InputError(f"{checked.path}: changed since it was checked, nothing was sent; run the command again")
        id = uuid.uuid4().hex[:12]
        description = _description(id, checked.sha256, message)
        ledger.append(
            self.ledger, "attempt", id, competition=self.competition, file=str(checked.path), sha256=checked.sha256,
            bytes=checked.size, message=message, description=description, blend=checked.blend,
            limit=self.budget.remaining,
        )
        # Three requests and the file itself; a third of the time left is kept for checking whether it arrived.
        limit = min(3 * self.budget.timeout, self.budget.remaining * 2 / 3)
        try:
            answer = self.client.call(
                "submit", self.budget, limit,
                competition=self.competition, file=str(checked.path), description=description,
            )
        except Failure as failure:
            if not failure.may_have_submitted:
                ledger.append(self.ledger, "failed", id, reason=shorten(str(failure)))
                raise
            ledger.append(self.ledger, "unclear", id, reason=shorten(str(failure)))
            return self._resolve_lost_answer(id, failure)
        except BaseException as interruption:
            ledger.append(self.ledger, "unclear", id, reason=f"interrupted: {type(interruption).__name__}")
            raise
        if answer["ref"] > 0:
            ledger.append(self.ledger, "submitted", id, ref=answer["ref"], how="answer")
            return self._attempt(id)
        reason = shorten(answer["printed"] or answer["message"] or "no reason given")
        if not answer["uploaded"]:
            # The client makes its last request only after a complete upload.
            ledger.append(self.ledger, "failed", id, reason=reason)
            raise Failure("upload", reason)
        ledger.append(self.ledger, "unclear", id, reason=f"no ref in Kaggle's answer: {reason}")
        return self._resolve_lost_answer(id, Failure("other", f"no ref in Kaggle's answer: {reason}"))

    def _resolve_lost_answer(self, id: str, failure: Failure) -> Attempt:
        """The attempt if its submission arrived; otherwise raise the failure that lost the answer."""
        self.log(f"the answer was lost ({shorten(str(failure))}): checking whether the submission arrived")
        try:
            self.reconcile()
        except Failure as second:
            raise Failure("unclear", str(second), second.status, phase="unknown") from failure
        attempt = self._attempt(id)
        if attempt.state == "submitted":
            return attempt
        raise Failure(failure.kind, failure.text, failure.status, failure.retry_after) from failure

    def _submissions(self) -> list[dict[str, Any]]:
        """Our submissions to the competition, newest first."""
        submissions: list[dict[str, Any]] = []
        token = ""
        for _ in range(_MAX_PAGES):
            page = self.client.query("submissions", self.budget, competition=self.competition, token=token)
            submissions += page["submissions"]
            token = page["next"]
            if not token:
                break
        return submissions

    def _attempts(self) -> list[Attempt]:
        return [attempt for attempt in ledger.read_attempts(self.ledger) if attempt.competition == self.competition]

    def _open_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self._attempts() if attempt.state == "open"]

    def _attempt(self, id: str) -> Attempt:
        return next(attempt for attempt in self._attempts() if attempt.id == id)

    def _record_score(self, attempt: Attempt, submission: dict[str, Any]) -> None:
        """Record a submission's status and scores if they differ from the attempt's."""
        values = {"status": _status(submission)} | {name: _text(submission.get(key)) for name, key in _SCORES.items()}
        if any(getattr(attempt, name) != value for name, value in values.items()):
            ledger.append(self.ledger, "score", attempt.id, **values)

    def _wait_for_other(self, waits: int) -> None:
        if not waits:
            self.log(f"another process is sending with {self.ledger}: waiting for it")
        self.budget.wait(waits)


_SCORES = {"public_score": "publicScore", "private_score": "privateScore", "reason": "errorDescription"}

_TAG = re.compile(r"\[id ([0-9a-f]{12}), file ([0-9a-f]{16})\]")


def _status(submission: dict[str, Any]) -> str:
    # The status may be a protobuf name with its prefix, a plain name, or absent for the default, PENDING.
    return str(submission.get("status") or "PENDING").upper().removeprefix("SUBMISSION_STATUS_")


def _text(value: object) -> str:
    """A score or an error text; empty when Kaggle gives none."""
    return "" if value is None else str(value)


def _description(id: str, sha256: str, message: str) -> str:
    """A submission's description. The tag comes first, so that a limit on its length cuts off the message instead."""
    return f"[id {id}, file {sha256[:16]}] {' '.join(message.split())}"


def _tag(submission: dict[str, Any]) -> tuple[str, str]:
    """The attempt id and the start of the file's hash in a submission's description; empty if it is not one of ours."""
    tag = _TAG.search(submission.get("description") or "")
    return (tag[1], tag[2]) if tag else ("", "")
