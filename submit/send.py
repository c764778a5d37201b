"""From a checked file to a submission at Kaggle: never two where one was meant, and a ledger that is true throughout.

The order of things is the whole point:

1. Under the right to send, open attempts of earlier runs are looked up in Kaggle's list by the unique id in their
   description. One that is there is recorded; one that is not there counts as never arrived only after it had
   `settle` seconds to arrive.
2. The limits and the same content's earlier submissions are looked at; nothing is sent in vain.
3. The attempt is in the ledger, on the disk, before it is sent. Success is a `ref` above 0 and nothing else.
4. A failure before the client's last request, or a refusal by Kaggle, made no submission: the next try is another
   attempt. After anything else a submission may exist, and step 1 decides.

What a file must look like is `submit.check`; how calls are bounded in time is `submit.client`.
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
from submit.check import Checked, unchanged
from submit.client import Client, Failure, Patience
from submit.ledger import Attempt

SENDINGS = 3
"""How often one run may send, each time after proof that the last sending made no submission."""

_PAGES = 10
"""Pages of a hundred submissions looked through, newest first."""

Say = Callable[[str], None]


@dataclass
class Sender:
    """One run's dealings with one competition."""

    client: Client
    patience: Patience
    competition: str
    ledger: Path
    settle: float
    """Seconds after which a submission that Kaggle does not list never arrived."""
    say: Say

    def submit(self, checked: Checked, message: str, again: bool) -> Attempt:
        """Submit once and answer the attempt that made it, or that an interrupted earlier run turns out to have made.

        Raises `InputError` for content submitted before (unless `again`), `Failure` for everything at Kaggle's end.
        """
        with ledger.sending(self.ledger, self._wait_for_other):
            for attempt in self._ready(checked, again):
                self.say(f"this file had arrived as ref {attempt.ref}: nothing is sent")
                return attempt
            turn = 0
            while True:
                try:
                    return self._send(checked, message)
                except Failure as failure:
                    turn += 1
                    if not failure.passing or turn == SENDINGS:
                        raise
                    self.say(f"no submission was made ({shorten(str(failure))}): trying again")
                    self.patience.rest(turn - 1, failure)

    def rehearse(self, checked: Checked, again: bool) -> None:
        """Everything `submit` does before it sends, and raises."""
        with ledger.sending(self.ledger, self._wait_for_other):
            self._ready(checked, again)

    def _ready(self, checked: Checked, again: bool) -> list[Attempt]:
        """Settle the past and look at what is left; attempts of this content that turned out to have arrived."""
        arrived, listed = self.reconcile()
        if same := [attempt for attempt in arrived if attempt.sha256 == checked.sha256]:
            return same
        if not again:
            self._refuse_duplicate(checked.sha256, listed)
        self._check_limits()
        return []

    def _check_limits(self) -> None:
        """`Failure("limit")` when no submission is left today."""
        limits = self.client.ask("limits", self.patience, competition=self.competition)
        if limits["allowed"] > 0:
            self.say(f"limits: {limits['allowed']} submissions left today, {limits['today']} made")
        elif limits["today"] or limits["total"]:
            raise Failure("limit", f"{limits['today']} made today, {limits['total']} in all, none left")
        else:
            # Kaggle says 0 of everything to who is in no team yet, as before one's first submission.
            self.say("limits: Kaggle counts no submissions of yours yet")

    def _refuse_duplicate(self, sha256: str, listed: list[dict[str, Any]]) -> None:
        """`InputError` when the ledger or Kaggle's list has this content already."""
        for attempt in self._known():
            if attempt.sha256 == sha256 and attempt.state == "submitted":
                score = f", public score {attempt.public_score}" if attempt.public_score else ""
                raise InputError(
                    f"this content was submitted on {attempt.date} as ref {attempt.ref}{score}; "
                    f"--again submits it once more"
                )
        for submission in listed:
            if _tag(submission)[1] == sha256[:16]:
                by = submission.get("submittedBy") or "you"
                raise InputError(
                    f"this content was submitted as ref {submission['ref']} by {by}, under another ledger; "
                    f"--again submits it once more"
                )

    def reconcile(self) -> tuple[list[Attempt], list[dict[str, Any]]]:
        """Settle every attempt without an outcome by Kaggle's list: those that turn out to have arrived, and the list.

        `Failure("unclear")` when the deadline passes before that can be told.
        """
        arrived, start, turn = [], time.time(), 0
        while True:
            asked = time.time()  # the list is as old as the question, however long the answer took
            listed = self._listed()
            arrived += self._absorb(listed)
            for attempt in self._open():
                if asked >= min(attempt.until, start) + self.settle:
                    reason = f"not among Kaggle's submissions {self.settle:g} s after it was sent"
                    ledger.append(self.ledger, "failed", attempt.id, reason=reason)
            if not (still_open := self._open()):
                return arrived, listed
            if not turn:
                self.say(f"{len(still_open)} attempt(s) without an outcome: looking for them in Kaggle's list")
            try:
                self.patience.rest(turn)
            except Failure as failure:
                raise Failure("unclear", str(failure)) from failure
            turn += 1

    def _absorb(self, listed: list[dict[str, Any]]) -> list[Attempt]:
        """Record what Kaggle's list says of our attempts; those of which it is news that they arrived."""
        known = {attempt.id: attempt for attempt in self._known()}
        arrived = []
        for submission in listed:
            attempt = known.get(_tag(submission)[0])
            if attempt is None:
                continue
            if attempt.state != "submitted":
                ledger.append(self.ledger, "submitted", attempt.id, ref=int(submission["ref"]), how="listed")
                arrived.append(attempt.id)
            self._score(attempt, submission)
        return [self._attempt(id) for id in arrived]

    def follow(self, attempt: Attempt) -> Attempt:
        """Wait for the score, by ref, until the deadline, then `Failure("unscored")`."""
        turn, failure = 0, None
        while True:
            try:
                answer = self.client.call("submission", self.patience, self.patience.timeout, ref=attempt.ref)
                failure = None
            except Failure as error:
                # Kaggle's parts learn of a submission one after the other: not found, right after sending, is not yet.
                if not error.passing and error.status != 404:
                    raise
                failure = error
            else:
                status = _status(answer)
                if status in ("COMPLETE", "ERROR"):
                    self._score(attempt, answer)
                    return self._attempt(attempt.id)
                if not turn:
                    self.say(f"ref {attempt.ref}: {status.lower()}, waiting for the score")
            try:
                self.patience.rest(turn, failure)
            except Failure as late:
                raise Failure("unscored", f"ref {attempt.ref}: {late}") from late
            turn += 1

    def refresh(self) -> None:
        """Record what Kaggle's list says of attempts and scores that the ledger does not have yet."""
        with ledger.sending(self.ledger, self._wait_for_other):
            self.reconcile()

    def _send(self, checked: Checked, message: str) -> Attempt:
        """One attempt. Returns it when it made a submission; a `Failure` raised says that it did not, or `unclear`."""
        if not unchanged(checked):
            raise InputError(f"{checked.path}: changed since it was checked, nothing was sent; run the command again")
        id = uuid.uuid4().hex[:12]
        description = _described(id, checked.sha256, message)
        ledger.append(
            self.ledger, "attempt", id, competition=self.competition, file=str(checked.path), sha256=checked.sha256,
            bytes=checked.size, message=message, description=description, blend=checked.blend,
            limit=self.patience.left,
        )
        # Three requests and the file itself; a third of the time left is kept for looking whether it arrived.
        limit = min(3 * self.patience.timeout, self.patience.left * 2 / 3)
        try:
            answer = self.client.call(
                "submit", self.patience, limit,
                competition=self.competition, file=str(checked.path), description=description,
            )
        except Failure as failure:
            if not failure.may_have_submitted:
                ledger.append(self.ledger, "failed", id, reason=shorten(str(failure)))
                raise
            ledger.append(self.ledger, "unclear", id, reason=shorten(str(failure)))
            return self._find(id, failure)
        except BaseException as interruption:
            ledger.append(self.ledger, "unclear", id, reason=f"interrupted: {type(interruption).__name__}")
            raise
        if answer["ref"] > 0:
            ledger.append(self.ledger, "submitted", id, ref=answer["ref"], how="answer")
            return self._attempt(id)
        reason = shorten(answer["printed"] or answer["message"] or "no reason given")
        if not answer["uploaded"]:
            # The client sends its last request only after a whole upload.
            ledger.append(self.ledger, "failed", id, reason=reason)
            raise Failure("upload", reason)
        ledger.append(self.ledger, "unclear", id, reason=f"no ref in Kaggle's answer: {reason}")
        return self._find(id, Failure("other", f"no ref in Kaggle's answer: {reason}"))

    def _find(self, id: str, failure: Failure) -> Attempt:
        """After a lost answer: the attempt, if it arrived; the failure that lost the answer, if it did not."""
        self.say(f"the answer was lost ({shorten(str(failure))}): looking whether the submission arrived")
        try:
            self.reconcile()
        except Failure as second:
            raise Failure("unclear", str(second), second.status, phase="unknown") from failure
        attempt = self._attempt(id)
        if attempt.state == "submitted":
            return attempt
        raise Failure(failure.kind, failure.text, failure.status, failure.retry_after) from failure

    def _listed(self) -> list[dict[str, Any]]:
        """Our submissions to the competition, newest first."""
        found: list[dict[str, Any]] = []
        token = ""
        for _ in range(_PAGES):
            page = self.client.ask("listed", self.patience, competition=self.competition, token=token)
            found += page["submissions"]
            token = page["next"]
            if not token:
                break
        return found

    def _known(self) -> list[Attempt]:
        return [each for each in ledger.attempts(self.ledger) if each.competition == self.competition]

    def _open(self) -> list[Attempt]:
        return [attempt for attempt in self._known() if attempt.state == "open"]

    def _attempt(self, id: str) -> Attempt:
        return next(each for each in self._known() if each.id == id)

    def _score(self, attempt: Attempt, submission: dict[str, Any]) -> None:
        """Record a submission's status and scores where they are news."""
        news = {"status": _status(submission)} | {name: _text(submission.get(key)) for name, key in _SCORES.items()}
        if any(getattr(attempt, name) != value for name, value in news.items()):
            ledger.append(self.ledger, "score", attempt.id, **news)

    def _wait_for_other(self, turn: int) -> None:
        if not turn:
            self.say(f"another process is sending with {self.ledger}: waiting for it")
        self.patience.rest(turn)


_SCORES = {"public_score": "publicScore", "private_score": "privateScore", "reason": "errorDescription"}

_TAG = re.compile(r"\[id ([0-9a-f]{12}), file ([0-9a-f]{16})\]")


def _status(submission: dict[str, Any]) -> str:
    # Proto names with their prefix, plain ones, and PENDING left out as a default, all occur.
    return str(submission.get("status") or "PENDING").upper().removeprefix("SUBMISSION_STATUS_")


def _text(value: object) -> str:
    """A score or an error text, empty where Kaggle gives none."""
    return "" if value is None else str(value)


def _described(id: str, sha256: str, message: str) -> str:
    """A submission's description. The tag stands first, so that a limit on its length cuts the message instead."""
    return f"[id {id}, file {sha256[:16]}] {' '.join(message.split())}"


def _tag(submission: dict[str, Any]) -> tuple[str, str]:
    """Attempt id and file mark in a submission's description; empty where it is not one of ours."""
    found = _TAG.search(submission.get("description") or "")
    return (found[1], found[2]) if found else ("", "")
