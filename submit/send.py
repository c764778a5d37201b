"""Submit a checked file to Kaggle exactly once, keeping the ledger correct even if the process is killed.

An attempt is *open* if it was sent, or may have been, and its outcome is unknown. The client makes three requests per
attempt: the first starts the upload, the second uploads the file, and the third, `CreateSubmission`, creates the
submission. The order of the steps matters:

1. Under the sending lock, open attempts of earlier runs are looked up in Kaggle's submission list, by the unique id in
   their description. An attempt found there is recorded as submitted; one that is still missing after this run has
   looked for `settle_seconds` is recorded as failed. The time is measured in this run with a monotonic clock: the
   timestamps of an earlier run may come from a clock that has been adjusted since. Attempts with the same content in
   another ledger of this user (see `submit.pending`) are looked up in the same way.
2. Earlier submissions of the same content and the daily limit are checked before anything is uploaded.
3. The attempt is written to the ledger and flushed to disk before it is sent. It succeeds only if Kaggle answers with a
   `ref` above 0.
4. After a failure before `CreateSubmission`, or a refusal by Kaggle, no submission exists: the next try is a new
   attempt. After any other failure a submission may exist, and the attempt is resolved as in step 1.

`submit.check` defines what a file must look like; `submit.client` enforces the time limits of calls.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InputError, describe_os_error
from registry.redaction import redact
from submit import ledger
from submit.advice import shorten
from submit.check import CheckedFile, is_unchanged
from submit.client import Client, Failure, TimeBudget
from submit.ledger import Attempt
from submit.pending import PendingAttempts
from submit.submissions import build_description, list_submissions, parse_scores, parse_status, parse_tag

MAX_SENDS = 3
"""Maximum number of attempts per run; each one after the first needs proof that the previous one made no submission."""


@dataclass
class Sender:
    """Submits to one competition, and keeps the ledger in agreement with Kaggle."""

    client: Client
    budget: TimeBudget
    competition: str
    ledger_path: Path
    settle_seconds: float
    """Seconds to look for a submission in Kaggle's list before it counts as never received."""
    log: Callable[[str], None]
    """Prints a line of progress."""

    def __post_init__(self) -> None:
        self.pending = PendingAttempts(self.competition)

    @contextlib.contextmanager
    def _sending_lock(self) -> Iterator[None]:
        """Allow one sending process at a time: per competition among this user's, and per ledger among all users'."""
        self.pending.prepare()
        with (
            ledger.sending_lock(self.pending.folder, self._wait_for_lock),
            ledger.sending_lock(self.ledger_path, self._wait_for_lock),
        ):
            yield

    def submit(self, checked: CheckedFile, message: str, allow_duplicate: bool) -> Attempt:
        """Submit once; return the attempt that made the submission, possibly one of an interrupted earlier run.

        Raises `InputError` for content that was submitted before, unless `allow_duplicate`, and `Failure` when Kaggle
        or the connection fails.
        """
        with self._sending_lock():
            if arrived := self._prepare(checked, allow_duplicate):
                self.log(f"already submitted as ref {arrived[0].ref} by an interrupted run; not sending it again")
                return arrived[0]
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

    def dry_run(self, checked: CheckedFile, allow_duplicate: bool) -> None:
        """Do everything that `submit` does before it sends, and raise the same errors."""
        with self._sending_lock():
            self._prepare(checked, allow_duplicate)

    def _prepare(self, checked: CheckedFile, allow_duplicate: bool) -> list[Attempt]:
        """Reconcile, then check duplicates and limits. Returns attempts of this content newly found to have arrived."""
        arrived, listed = self.reconcile(checked.sha256)
        if same_content := [attempt for attempt in arrived if attempt.sha256 == checked.sha256]:
            return same_content
        if not allow_duplicate:
            self._refuse_duplicate(checked.sha256, listed)
        self._check_limits()
        return []

    def _check_limits(self) -> None:
        """Raise `Failure("limit")` if no submissions are left today."""
        limits = self.client.query("get_limits", self.budget, competition=self.competition)
        if limits["allowed"] > 0:
            self.log(f"limits: {limits['allowed']} submissions left today, {limits['today']} made")
        elif limits["today"] or limits["total"]:
            raise Failure("limit", f"{limits['today']} made today, {limits['total']} in total, none left")
        else:
            # Before the first submission a user has no team, and Kaggle reports every count as 0.
            self.log("limits: Kaggle counts no submissions of yours yet")

    def _refuse_duplicate(self, sha256: str, listed: list[dict[str, Any]]) -> None:
        """Raise `InputError` if the ledger or Kaggle's submission list already has this content."""
        for attempt in self._read_attempts():
            if attempt.sha256 == sha256 and attempt.state == "submitted":
                score = f", public score {attempt.public_score}" if attempt.public_score else ""
                raise InputError(
                    f"this content was submitted on {attempt.date} as ref {attempt.ref}{score}; "
                    f"pass --again to submit it once more"
                )
        for submission in listed:
            if parse_tag(submission)[1] == sha256[:16]:
                user = submission.get("submittedBy") or "you"
                raise InputError(
                    f"this content was submitted as ref {submission['ref']} by {user}, under another ledger; "
                    f"pass --again to submit it once more"
                )

    def reconcile(self, sha256: str = "") -> tuple[list[Attempt], list[dict[str, Any]]]:
        """Look up open attempts, and those with this content in other ledgers, in Kaggle's list and resolve them.

        Returns the attempts newly found to have arrived, and the list. Raises `Failure("unclear")` if the deadline
        would pass before all attempts are resolved.
        """
        arrived, waits = [], 0
        # We hold the sending lock, so the run that made an open attempt has ended, and will not send anything.
        start = time.monotonic()
        while True:
            requested = time.monotonic()  # the list may be as old as the request, even if the answer took long
            listed = list_submissions(self.client, self.budget, self.competition)
            arrived += self._record_listed(listed)
            open_attempts = self._read_open_attempts()
            others = self._find_others(sha256, listed)
            if requested >= start + self.settle_seconds:
                reason = f"not among Kaggle's submissions within {self.settle_seconds:g} s"
                for attempt in open_attempts:
                    self._record_failure(attempt.id, attempt.sha256, reason)
                for id in others:
                    self.pending.remove(id, sha256)
                open_attempts, others = [], set()
            if not open_attempts and not others:
                return arrived, listed
            if not waits:
                count = len(open_attempts) + len(others)
                self.log(f"{count} attempt(s) without an outcome: looking for them in Kaggle's submission list")
            try:
                self.budget.wait(waits)
            except Failure as failure:
                raise Failure("unclear", str(failure)) from failure
            waits += 1

    def _find_others(self, sha256: str, listed: list[dict[str, Any]]) -> set[str]:
        """The ids of this user's attempts with this content that are neither in this ledger nor in Kaggle's list."""
        known = {attempt.id for attempt in self._read_attempts()} | {parse_tag(submission)[0] for submission in listed}
        return self.pending.find(sha256) - known if sha256 else set()

    def _record_failure(self, id: str, sha256: str, reason: str) -> None:
        """Record that an attempt made no submission."""
        ledger.append(self.ledger_path, "failed", id, reason=reason)
        self.pending.remove(id, sha256)

    def _record_listed(self, listed: list[dict[str, Any]]) -> list[Attempt]:
        """Record what Kaggle's submission list says about our attempts. Returns those newly found to have arrived."""
        known = {attempt.id: attempt for attempt in self._read_attempts()}
        arrived = []
        for submission in listed:
            id = parse_tag(submission)[0]
            if (attempt := known.get(id)) is None:
                continue
            if attempt.state != "submitted":
                ledger.append(self.ledger_path, "submitted", attempt.id, ref=int(submission["ref"]), how="listed")
                arrived.append(attempt.id)
            self._record_score(attempt, submission)
        return [self._find_attempt(id) for id in arrived]

    def wait_for_score(self, attempt: Attempt) -> Attempt:
        """Wait for the score of a submitted attempt. Raises `Failure("unscored")` if the deadline would pass first."""
        waits, failure = 0, None
        while True:
            try:
                answer = self.client.call("get_submission", self.budget, self.budget.timeout, ref=attempt.ref)
                failure = None
            except Failure as error:
                # Kaggle is eventually consistent: a 404 right after sending means "not yet".
                if not error.transient and error.status != 404:
                    raise
                failure = error
            else:
                status = parse_status(answer)
                if status in ("COMPLETE", "ERROR"):
                    self._record_score(attempt, answer)
                    return self._find_attempt(attempt.id)
                if not waits:
                    self.log(f"ref {attempt.ref}: {status.lower()}, waiting for the score")
            try:
                self.budget.wait(waits, failure)
            except Failure as deadline:
                raise Failure("unscored", f"ref {attempt.ref}: {deadline}") from deadline
            waits += 1

    def update_ledger(self) -> None:
        """Record outcomes and scores from Kaggle's submission list that the ledger does not have yet."""
        with self._sending_lock():
            self.reconcile()

    def _send(self, checked: CheckedFile, message: str) -> Attempt:
        """Make one attempt and return it. A `Failure` means no submission, unless it is `unclear` or `unrecorded`."""
        if not is_unchanged(checked):
            raise InputError(f"{checked.path}: changed since it was checked, nothing was sent; run the command again")
        id = uuid.uuid4().hex[:12]
        message = redact(message)
        description = build_description(id, checked.sha256, message)
        ledger.append(
            self.ledger_path, "attempt", id, competition=self.competition, file=str(checked.path),
            sha256=checked.sha256, bytes=checked.size, message=message, description=description, blend=checked.blend,
        )
        self.pending.add(id, checked.sha256)
        # The call makes three requests, and the timeout is per request. A third of the remaining time is reserved for
        # checking whether the submission arrived.
        time_limit = min(3 * self.budget.timeout, self.budget.remaining * 2 / 3)
        try:
            answer = self.client.call(
                "submit", self.budget, time_limit,
                competition=self.competition, file=str(checked.path), description=description,
            )
        except Failure as failure:
            if not failure.may_have_submitted:
                self._record_failure(id, checked.sha256, shorten(str(failure)))
                raise
            ledger.append(self.ledger_path, "unclear", id, reason=shorten(str(failure)))
            return self._resolve_lost_answer(id, failure)
        except BaseException as interruption:
            ledger.append(self.ledger_path, "unclear", id, reason=f"interrupted: {type(interruption).__name__}")
            raise
        if answer["ref"] > 0:
            try:
                ledger.append(self.ledger_path, "submitted", id, ref=answer["ref"], how="answer")
            except OSError as error:
                text = f"ref {answer['ref']}; {describe_os_error(error, self.ledger_path)}"
                raise Failure("unrecorded", text) from error
            return self._find_attempt(id)
        reason = shorten(answer["printed"] or answer["message"] or "no reason given")
        if not answer["uploaded"]:
            # The client sends `CreateSubmission` only after a complete upload.
            self._record_failure(id, checked.sha256, reason)
            raise Failure("upload", reason)
        ledger.append(self.ledger_path, "unclear", id, reason=f"no ref in Kaggle's answer: {reason}")
        return self._resolve_lost_answer(id, Failure("other", f"no ref in Kaggle's answer: {reason}"))

    def _resolve_lost_answer(self, id: str, failure: Failure) -> Attempt:
        """Return the attempt if its submission arrived; otherwise raise `failure`, which lost the answer."""
        self.log(f"the answer was lost ({shorten(str(failure))}): checking whether the submission arrived")
        try:
            self.reconcile()
        except Failure as check_failure:
            raise Failure("unclear", str(check_failure), check_failure.status, phase="unknown") from failure
        attempt = self._find_attempt(id)
        if attempt.state == "submitted":
            return attempt
        raise Failure(failure.kind, failure.text, failure.status, failure.retry_after) from failure

    def _read_attempts(self) -> list[Attempt]:
        attempts = ledger.read_attempts(self.ledger_path)
        return [attempt for attempt in attempts if attempt.competition == self.competition]

    def _read_open_attempts(self) -> list[Attempt]:
        return [attempt for attempt in self._read_attempts() if attempt.state == "open"]

    def _find_attempt(self, id: str) -> Attempt:
        return next(attempt for attempt in self._read_attempts() if attempt.id == id)

    def _record_score(self, attempt: Attempt, submission: dict[str, Any]) -> None:
        """Record a submission's status and scores if they differ from the ledger's."""
        values = parse_scores(submission)
        if any(getattr(attempt, name) != value for name, value in values.items()):
            ledger.append(self.ledger_path, "score", attempt.id, **values)

    def _wait_for_lock(self, waits: int) -> None:
        if not waits:
            self.log(f"another process is sending to {self.competition}: waiting for it to finish")
        self.budget.wait(waits)
