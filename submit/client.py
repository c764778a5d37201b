"""Call the official client with time limits: calls run in a child process that is killed when its time is up.

Why a child process: the client has no timeouts, authenticates while it is imported, may exit the interpreter
(`SystemExit`) and prints to standard output. A thread that hangs cannot be stopped; a process can, on every platform
and without patching the client. One child serves all calls of a run, so that the client is imported only once. What the
client prints never reaches our own output, and the child exits when its parent does.

This module only makes calls and waits. `submit.advice` explains a failure to the user; `submit.send` decides what to do
about it.
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
from typing import IO, Any

from registry.errors import InputError
from registry.redaction import redact_all
from submit.answers import check_answer
from submit.credentials import prepare_environment
from submit.worker import TIMEOUT_STATUS

TRIES = 5
"""Maximum number of tries of a read-only call."""

_IMPORT_SECONDS = 45.0
"""Extra time for a child to import the client: one second on an idle machine, many on one that is training."""

_GRACE_SECONDS = 1.0
"""Time for a child past its time limit to exit by itself before it is killed; less when the deadline is near."""


class Failure(Exception):
    """A call that failed, at Kaggle or before it got there.

    `kind`: `http` (with `status`), `connection`, `garbled` (an answer that is not JSON), `timeout`, `deadline` (of
    the whole run), `died` (the child exited unexpectedly), `credentials`, `import`, `other`; from `submit.send`:
    `upload`, `limit`, `unclear`, `unrecorded`, `unscored`; from `submit.download`: `damaged`, `archive`.
    `phase`: how far a submission got (see `submit.worker.find_phase`), or `unknown`.
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
    def transient(self) -> bool:
        """Whether the same call may succeed if it is retried."""
        if self.kind == "http":
            return self.status is not None and (self.status in (408, 429) or self.status >= 500)
        return self.kind in ("connection", "garbled", "timeout", "died", "upload")

    @property
    def may_have_submitted(self) -> bool:
        """Whether a submission may exist despite the failure: it may have been sent, and Kaggle did not refuse it."""
        # A gateway may give up (408) or limit the rate (429) after it has forwarded the request.
        refused = self.kind == "http" and 400 <= (self.status or 0) < 500 and not self.transient
        return self.phase in ("create", "unknown") and not refused


@dataclass
class TimeBudget:
    """Time limits of a run, in seconds: `timeout` per call, `deadline` for the whole run; waits double from `pause`.

    The deadline counts from the creation of the object.
    """

    timeout: float = 60.0
    deadline: float = 900.0
    pause: float = 2.0
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + self.deadline

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.end - time.monotonic()

    def wait(self, waits: int, failure: Failure | None = None) -> None:
        """Sleep for the Retry-After of `failure` if it has one, else with exponential backoff after `waits` waits.

        The backoff is at most 30 times `pause`. Raises `Failure("deadline")` at once if the deadline would pass first.
        """
        retry_after = parse_retry_after(failure.retry_after) if failure else None
        growth = min(2.0 ** min(waits, 5), 30.0)
        seconds = self.pause * growth * random.uniform(0.8, 1.2) if retry_after is None else retry_after
        if seconds >= self.remaining:
            cause = f"; the last failure was: {failure}" if failure else ""
            raise Failure("deadline", f"the deadline of {self.deadline:g} s would pass while waiting{cause}")
        time.sleep(seconds)


def parse_retry_after(header: str | None) -> float | None:
    """Parse a Retry-After header, a number or a date, to seconds (RFC 9110, section 10.2.3)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


class Client:
    """The official client in a child process, which is started on demand and restarted after it is killed.

    Use as a context manager. `environment` replaces the child's environment variables. All texts in its answers and
    failures are redacted. Raises `InputError` for credentials that cannot be sent.

    >>> with Client() as client:                                              # doctest: +SKIP
    ...     client.query("get_limits", TimeBudget(), competition="11785-hw3p2")
    {'today': 2, 'total': 31, 'allowed': 8}
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment
        self._child: _Child | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child, even in the middle of a call."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def query(self, call: str, budget: TimeBudget, tries: int = TRIES, **arguments: Any) -> Any:
        """Make a read-only call and retry it after transient failures. Raises the last `Failure`."""
        failures = 0
        while True:
            try:
                return self.call(call, budget, budget.timeout, **arguments)
            except Failure as failure:
                failures += 1
                if not failure.transient or failures >= tries:
                    raise
                budget.wait(failures - 1, failure)

    def call(
        self,
        call: str,
        budget: TimeBudget,
        time_limit: float,
        watch: Callable[[], None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Make a call once, within `time_limit` seconds and the deadline. Raises `Failure`.

        `watch` is called several times per second during the call; an exception it raises ends the call.
        """
        try:
            child = self._child or self._start(budget)
            return self._exchange(child, call, arguments, time_limit, budget, watch)
        except BaseException as error:
            # After a timeout or Ctrl-C, the answer to this call could be mistaken for the answer to the next.
            if not isinstance(error, Failure) or error.kind == "timeout":
                self.close()
            raise

    def _start(self, budget: TimeBudget) -> _Child:
        child = self._child = _Child(prepare_environment(self._environment))
        try:
            self._exchange(child, "find_credentials", {}, budget.timeout + _IMPORT_SECONDS, budget)
        except Failure as failure:
            failure.phase = "before"  # the call that needed the child has not been made
            raise
        return child

    def _exchange(
        self,
        child: _Child,
        call: str,
        arguments: dict[str, Any],
        time_limit: float,
        budget: TimeBudget,
        watch: Callable[[], None] | None = None,
    ) -> Any:
        # The child's time limit is slightly shorter than our wait, so that it can exit by itself and report how far the
        # submission got.
        wait = min(time_limit + _GRACE_SECONDS, budget.remaining)
        if wait <= 0:
            raise Failure("deadline", f"the deadline of {budget.deadline:g} s has passed")
        time_limit = wait - min(_GRACE_SECONDS, 0.1 * wait)
        try:
            child.write(json.dumps({"call": call, "arguments": arguments, "time_limit": time_limit}))
            line = child.read_line(wait, watch)
        except BrokenPipeError:
            line = None
        except queue.Empty:
            raise Failure("timeout", f"no answer within {wait:.3g} s", phase="unknown") from None
        if line is None:
            raise self._explain_exit(child, time_limit)
        answer = redact_all(json.loads(line), self._environment)
        if "failure" in answer:
            failure = answer["failure"]
            text = failure["text"] or failure["error"]
            raise Failure(failure["kind"], text, failure["status"], failure["retry_after"], failure["phase"])
        try:
            check_answer(call, answer["value"])
        except InputError as error:
            raise Failure("garbled", str(error), phase="create" if call == "submit" else "before") from None
        return answer["value"]

    def _explain_exit(self, child: _Child, time_limit: float) -> Failure:
        """Return the failure of a child that exited without an answer: past its time limit, or unexpectedly."""
        status = child.wait_for_exit(_GRACE_SECONDS)
        for phase, code in TIMEOUT_STATUS.items():
            if code == status:
                return Failure("timeout", f"no answer within {time_limit:.3g} s", phase=phase)
        self.close()
        return Failure("died", f"the client's process exited with status {status}", phase="unknown")


class _Child:
    """A running `submit/worker.py`: requests go in and answers come out, one per line."""

    def __init__(self, environment: dict[str, str]) -> None:
        script = str(Path(__file__).with_name("worker.py"))
        # -P: no file in this folder or the working directory may shadow a module that the client imports. A new
        # session: Ctrl-C does not reach the child, so the ledger is written before the child is killed.
        self.process = subprocess.Popen(
            [sys.executable, "-P", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests = self.process.stdin
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_collect_lines, args=(self.process.stdout, self._lines), daemon=True).start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._requests.close()

    def write(self, request: str) -> None:
        self._requests.write(request + "\n")
        self._requests.flush()

    def read_line(self, time_limit: float, watch: Callable[[], None] | None) -> str | None:
        """Return the next line, or None if the process exits. Raises `queue.Empty` if neither happens in time."""
        if watch is None:
            return self._lines.get(timeout=time_limit)
        end = time.monotonic() + time_limit
        while True:
            try:
                return self._lines.get(timeout=0.2)
            except queue.Empty:
                if time.monotonic() > end:
                    raise
                watch()

    def wait_for_exit(self, time_limit: float) -> int | None:
        """Return the exit status, or None if the process still runs after `time_limit` seconds."""
        try:
            return self.process.wait(time_limit)
        except subprocess.TimeoutExpired:
            return None


def _collect_lines(output: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with output:
        for line in output:
            if line.endswith("\n"):  # else the process was killed while it wrote
                lines.put(line)
    lines.put(None)
