"""The official client under our own clock: every call runs in a child process that is killed when its time is up.

Why a child process: the client has no time-outs, authenticates while it is imported, may end the interpreter
(`SystemExit`) and prints to standard output. A thread that hangs cannot be stopped; a process can, on every platform
and without a patch in the client. One child serves all calls of a run, so that its import is paid once. What the client
prints never reaches our own output, and the child ends when we do.

This module asks and waits; what a failure means for the user is `submit.advice`, what to do about it `submit.send`.
"""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from submit.worker import OVERTIME

TRIES = 5
"""How often a call that changes nothing is asked before we give up."""

_IMPORT_SECONDS = 45.0
"""How long a child may take to import the client: a second on an idle machine, many on one that is training."""

_GRACE_SECONDS = 1.0
"""How long a child past its limit may take to end itself before it is killed; the deadline allows less."""


class Failure(Exception):
    """A call that failed, on Kaggle's side or on the way to it.

    `kind`: `http` (with `status`), `connection`, `garbled` (an answer that is not JSON), `timeout`, `deadline` (ours),
    `died` (the child, not by us), `credentials`, `import`, `other`; from `submit.send`: `upload`, `limit`, `unclear`,
    `unscored`; from `submit.download`: `damaged`, `archive`.
    `phase`: how far a submission had come (`submit.worker.phase`), or `unknown`.
    """

    def __init__(
        self,
        kind: str,
        text: str = "",
        status: int | None = None,
        retry_after: str | None = None,
        phase: str = "before",
    ) -> None:
        super().__init__(text or kind)
        self.kind, self.text, self.status, self.retry_after, self.phase = kind, text, status, retry_after, phase

    @property
    def passing(self) -> bool:
        """Whether the same call may well succeed a little later."""
        if self.kind == "http":
            return self.status is not None and (self.status in (408, 429) or self.status >= 500)
        return self.kind in ("connection", "garbled", "timeout", "died", "upload")

    @property
    def may_have_submitted(self) -> bool:
        """Whether a submission may exist in spite of the failure: sent, and not refused by an answer of Kaggle's."""
        refused = self.kind == "http" and self.status is not None and 400 <= self.status < 500 and self.status != 408
        return self.phase in ("create", "unknown") and not refused


@dataclass
class Patience:
    """How long a run waits: `timeout` seconds for a call, `deadline` for everything, pauses doubling from `pause`."""

    timeout: float = 60.0
    deadline: float = 900.0
    pause: float = 2.0
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.deadline

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def rest(self, turn: int, failure: Failure | None = None) -> None:
        """Sleep before try number `turn` + 1: as long as Kaggle asked, else 30 first pauses at most.

        Raises `Failure("deadline")` at once when the deadline would pass meanwhile.
        """
        asked = _seconds(failure.retry_after) if failure else None
        seconds = asked if asked is not None else self.pause * min(2.0**turn, 30.0) * random.uniform(0.8, 1.2)
        if seconds >= self.left:
            because = f"; the last failure was: {failure}" if failure else ""
            raise Failure("deadline", f"the deadline of {self.deadline:g} s would pass while waiting{because}")
        time.sleep(seconds)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


class Client:
    """The child process, started when first needed and again after it was killed. Use as a context manager.

    `environment` is the child's, where it is not to be ours.

    >>> with Client() as client:                                              # doctest: +SKIP
    ...     client.ask("limits", Patience(), competition="11785-hw3p2")
    {'today': 2, 'total': 31, 'allowed': 8}
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child = None

    def ask(self, call: str, patience: Patience, tries: int = TRIES, **arguments: Any) -> Any:
        """A call that changes nothing at Kaggle, asked again after a passing failure. Raises the last `Failure`."""
        turn = 0
        while True:
            try:
                return self.call(call, patience, patience.timeout, **arguments)
            except Failure as failure:
                turn += 1
                if not failure.passing or turn >= tries:
                    raise
                patience.rest(turn - 1, failure)

    def call(
        self, call: str, patience: Patience, limit: float, watch: Callable[[], None] | None = None, **arguments: Any
    ) -> Any:
        """One call, once, within `limit` seconds and the deadline. Raises `Failure`.

        `watch` is called several times a second meanwhile; what it raises ends the call.
        """
        try:
            if self._child is None:
                self._start(patience)
            return self._exchange(call, arguments, limit, patience, watch)
        except BaseException as error:
            # After a time-out, or Ctrl-C, the answer of this call could be taken for that of the next.
            if not isinstance(error, Failure) or error.kind == "timeout":
                self.close()
            raise

    def _start(self, patience: Patience) -> None:
        script = str(Path(__file__).with_name("worker.py"))
        # -P: neither this folder nor the user's may shadow what the client imports. In a session of its own Ctrl-C
        # does not reach it: the ledger is written before it goes.
        self._child = subprocess.Popen(
            [sys.executable, "-P", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=self._environment,
            start_new_session=True,
        )
        self._answers = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._child, self._answers), daemon=True).start()
        try:
            self._exchange("hello", {}, patience.timeout + _IMPORT_SECONDS, patience)
        except Failure as failure:
            failure.phase = "before"  # whatever was to be called has not been
            raise

    def _exchange(
        self,
        call: str,
        arguments: dict[str, Any],
        limit: float,
        patience: Patience,
        watch: Callable[[], None] | None = None,
    ) -> Any:
        # The child gets a little less than we wait, so that it can end itself and tell how far it came.
        kill = min(limit + _GRACE_SECONDS, patience.left)
        if kill <= 0:
            raise Failure("deadline", f"the deadline of {patience.deadline:g} s has passed")
        limit = kill - min(_GRACE_SECONDS, 0.1 * kill)
        try:
            self._child.stdin.write(json.dumps({"call": call, "arguments": arguments, "limit": limit}) + "\n")
            self._child.stdin.flush()
            line = self._line(kill, watch)
        except BrokenPipeError:
            line = None
        except queue.Empty:
            raise Failure("timeout", f"no answer within {kill:.3g} s", phase="unknown") from None
        if line is None:
            raise self._ended(limit)
        answer = json.loads(line)
        if "failure" in answer:
            told = answer["failure"]
            text = told["text"] or told["error"]
            raise Failure(told["kind"], text, told["status"], told["retry_after"], told["phase"])
        return answer["value"]

    def _line(self, limit: float, watch: Callable[[], None] | None) -> str | None:
        """The child's next line; None when it ended. `queue.Empty` after `limit` seconds without either."""
        if watch is None:
            return self._answers.get(timeout=limit)
        end = time.monotonic() + limit
        while True:
            try:
                return self._answers.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() > end:
                    raise
                watch()

    def _ended(self, limit: float) -> Failure:
        """The failure of a child that ended without an answer: past its limit, or by a fault of its own."""
        try:
            status = self._child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        for phase, code in OVERTIME.items():
            if code == status:
                return Failure("timeout", f"no answer within {limit:.3g} s", phase=phase)
        self.close()
        return Failure("died", f"the client's process ended with status {status}", phase="unknown")


def _pump(child: subprocess.Popen[str], answers: queue.SimpleQueue[str | None]) -> None:
    with child.stdout:
        for line in child.stdout:
            answers.put(line)
    answers.put(None)
