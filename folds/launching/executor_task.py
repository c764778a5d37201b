"""What an executor starts: a run of `folds.train`, or a process of a search."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from folds.store.run_folder import RunFolder


class ExecutorTask(Hashable, Protocol):
    """Work that one process does, and that another one continues after its death. Executors on clusters pickle it."""

    @property
    def folder(self) -> RunFolder:
        """Has the log, the attempts and the lease, and tells when the work is finished."""

    @property
    def title(self) -> str:
        """Its name in messages."""

    @property
    def device(self) -> str:
        """The type of device ("cpu" or "cuda") that it needs."""

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        """The command line of its process.

        `wait_s` is how long to wait for another process that does the same work, and `threads` how many CPU threads its
        share of the machine has; None leaves them to the process.
        """
