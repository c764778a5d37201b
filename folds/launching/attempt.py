"""One attempt at a task: the process that does it, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from folds.launching.executor_task import ExecutorTask
from folds.launching.worker import BUSY
from folds.store.attempts import record_attempt
from registry.errors import INTERNAL_ERROR
from registry.redaction import redact

LAST_BYTES = 20_000
"""Bytes at the end of a log that are searched for the reason for a failure."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    state: Literal["finished", "stopped", "failed", "busy"]
    """`stopped`: by a signal, with its state saved; `busy`: another process was training the run."""
    reason: str = ""
    hopeless: bool = False
    """Whether another attempt would fail in the same way, because the input is wrong."""


class RunningAttempt:
    """A process whose output is appended to the log in the task's folder."""

    def __init__(
        self,
        task: ExecutorTask,
        executor: str,
        *,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
        job: str = "",
        wait_s: float = 0.0,
    ) -> None:
        """Start it. `threads` is its share of the machine's CPU threads; `job` is the scheduler's name for it."""
        self.task, self.executor, self.job = task, executor, job
        self._sent: set[int] = set()
        record_attempt(task.folder.attempts, "started", executor, job)
        with open(task.folder.log, "ab") as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                task.command(wait_s, threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                # A Ray worker runs in another folder. Another machine may not have the launcher's folder, nor need it.
                cwd=task.working_folder if os.path.isdir(task.working_folder) else None,
                # A terminal sends Ctrl-C to the launcher's whole process group; a second signal would end this process
                # without a checkpoint.
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal once: SIGTERM saves the state at the end of the step; a second one would not wait for that."""
        if self._process.poll() is None and number not in self._sent:
            self._sent.add(number)
            self._process.send_signal(number)

    def poll(self) -> Outcome | None:
        """How it ended; None while it is running."""
        status = self._process.poll()
        return None if status is None else self._recorded(status)

    def wait(self) -> Outcome:
        """Wait until it ends; returns how it ended. A signal handler may call this during another call."""
        # Popen.wait holds a lock, for which the handler would wait forever.
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return self._recorded(self._process.wait())

    def _recorded(self, status: int) -> Outcome:
        outcome = self._outcome(status)
        path, hopeless = self.task.folder.attempts, outcome.hopeless
        record_attempt(path, outcome.state, self.executor, self.job, outcome.reason, hopeless)
        return outcome

    def _outcome(self, status: int) -> Outcome:
        if status == 0 and self.task.folder.finished:
            return Outcome("finished")
        if status == BUSY:
            return Outcome("busy", self._last_line("") or "another process is training it")
        if status in [128 + number for number in STOP_SIGNALS] or -status in STOP_SIGNALS:
            return Outcome("stopped", f"stopped by {signal.Signals(status - 128 if status > 0 else -status).name}")
        if status < 0:
            memory = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
            return Outcome("failed", f"killed by {signal.Signals(-status).name}{memory}")
        if status == 2:
            return Outcome("failed", self._last_line("error: ") or "exit status 2", hopeless=True)
        prefix = "internal error: " if status == INTERNAL_ERROR else ""
        return Outcome("failed", self._last_line(prefix) or f"exit status {status}")

    def _last_line(self, prefix: str) -> str:
        """The last line of this attempt's output that begins with `prefix`, without it and without secrets."""
        with open(self.task.folder.log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._start, size - LAST_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        found = [line for line in lines if line.strip() and line.startswith(prefix)]
        return redact(found[-1].removeprefix(prefix)) if found else ""
