"""The tasks that an executor starts: a run of `folds.train`, or a process of a search."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from folds.store.run_folder import RunFolder
from folds.training.presets import device_type
from registry.errors import InputError


def shared_device(name: str) -> str:
    """The device type ("cpu" or "cuda") that `--device` names. Raises InputError for a GPU with a number."""
    if ":" in name:
        kind, _, number = name.partition(":")
        here = f"set CUDA_VISIBLE_DEVICES={number}" if kind == "cuda" else "leave out the number"
        raise InputError(f"--device {name}: each process is assigned its device: {here}, and pass --device {kind}")
    return device_type(name)


class ExecutorTask(Hashable, Protocol):
    """Work for one process, which another one continues if that dies. Executors on clusters pickle it."""

    @property
    def folder(self) -> RunFolder:
        """Holds the log, the attempts and the lease, and shows when the work is finished."""

    @property
    def title(self) -> str:
        """Its name in messages."""

    @property
    def device(self) -> str:
        """The device type ("cpu" or "cuda") that it needs."""

    @property
    def fingerprint(self) -> str:
        """Identifies its options, so that a job with others is not mistaken for it; empty if options may differ."""

    @property
    def working_folder(self) -> str:
        """The launcher's working folder; paths in its options are relative to it."""

    @property
    def needs_no_process(self) -> bool:
        """Whether the work is already done, so that no process has to start."""

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        """The command line of its process.

        `wait_s` is how long to wait for another process that does the same work, and `threads` how many CPU threads its
        share of the machine has; None leaves that to the process.
        """
