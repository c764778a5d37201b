"""The launcher: has every unfinished run attempted, several times if necessary, and shows their progress."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Sequence

from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.executor import Executor
from folds.launching.executor_task import ExecutorTask
from folds.launching.status import RunStatus, attempts_at
from folds.launching.status_table import REFRESH_S, StatusDisplay
from folds.store.lease import holder_of
from folds.training.signals import SignalCatcher
from registry import InputError


class Interrupted(Exception):
    """Ctrl-C or SIGTERM ended the launch; the message says what happened to the runs. `number` is the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Launcher:
    """Submits tasks to an executor until each is finished or has failed for good.

    A run that another process is training, such as another launcher's, is not attempted until that process has ended.
    """

    def __init__(
        self, executor: Executor, retries: int, destination: Destination, display: StatusDisplay | None = None
    ) -> None:
        self._executor, self._retries, self._destination = executor, retries, destination
        self._display = display or StatusDisplay()
        self._attempts: Counter[ExecutorTask] = Counter()
        self._busy: list[ExecutorTask] = []
        self._open: set[ExecutorTask] = set()
        self._failures: dict[ExecutorTask, Outcome] = {}

    def run(self, tasks: Sequence[ExecutorTask]) -> dict[ExecutorTask, Outcome]:
        """Have all tasks done; returns the failures. Raises Interrupted after Ctrl-C or SIGTERM."""
        self._open = {task for task in tasks if not self._destination.finished(task.folder)}
        pending = [task for task in tasks if task in self._open]
        self._busy = [task for task in pending if holder_of(task.folder.path)]
        earlier = {task: len(attempts_at(task.folder)) for task in tasks}
        last_shown = -REFRESH_S
        with SignalCatcher() as signals, self._display as display:
            self._executor.submit([task for task in pending if task not in self._busy])
            while self._open:
                if signals.caught is not None:
                    raise Interrupted(self._executor.interrupt(), signals.caught)
                for task, outcome in self._executor.ended():
                    self._settle(task, outcome)
                self._recheck_busy()
                if time.monotonic() - last_shown >= REFRESH_S or not self._open:
                    display.show([self.status(task, earlier[task]) for task in tasks])
                    last_shown = time.monotonic()
                if self._open:
                    time.sleep(self._executor.poll_s)
        self._executor.close()
        return self._failures

    def status(self, task: ExecutorTask, earlier: int = 0) -> RunStatus:
        """The status of a task; failed if its executor says so and its folder, on another machine's disk, does not."""
        status, failure = self._destination.status(task.folder, earlier), self._failures.get(task)
        if failure is None or failure.state != "failed" or status.state in ("training", "failed", "finished"):
            return status
        return dataclasses.replace(status, state="failed", reason=failure.reason)

    def _settle(self, task: ExecutorTask, outcome: Outcome) -> None:
        """Decide what to do after an attempt has ended."""
        if outcome.state == "failed":
            # If each machine has its own cache, an uploaded run is visible only under its URL.
            with contextlib.suppress(InputError):
                self._destination.refresh()
        if outcome.state == "finished" or self._destination.finished(task.folder):
            self._open.discard(task)
        elif outcome.state == "busy":
            self._busy.append(task)
        else:
            self._attempts[task] += 1
            if outcome.hopeless or self._attempts[task] >= self._retries:
                self._failures[task] = outcome
                self._open.discard(task)
            else:
                self._executor.submit([task])

    def _recheck_busy(self) -> None:
        """Attempt the runs that another process was working on and has left unfinished."""
        for task in list(self._busy):
            if self._destination.finished(task.folder):
                self._busy.remove(task)
                self._open.discard(task)
            elif holder_of(task.folder.path) is None:
                self._busy.remove(task)
                self._executor.submit([task])
