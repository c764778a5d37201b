"""Executors: where tasks run. Adding one is adding a file to `folds/launching/executors`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from folds.launching.attempt import Outcome
from folds.launching.executor_task import ExecutorTask
from registry import Registry
from registry.bounds import Bounded, number
from registry.command_line import leading_options


@dataclasses.dataclass(frozen=True)
class Resources(Bounded):
    """What each run needs of a cluster's machine."""

    gpus: int = number(1, at_least=0, at_most=1)
    """1 trains on a GPU, 0 on CPUs. Several GPUs in one run need torchrun."""
    cpus: int = number(4, at_least=1, at_most=1024)
    """CPU cores."""
    memory: float = number(0.0, at_least=0, at_most=100_000)
    """GB of memory; 0 is the cluster's default."""

    @property
    def device(self) -> str:
        """What `--device` follows: this machine may have no GPU where those have."""
        return "cuda" if self.gpus else "cpu"


@dataclasses.dataclass(frozen=True)
class LaunchSettings:
    """What an executor is told."""

    runs: Path
    """The runs folder, absolute."""
    jobs: int
    """Most runs at the same time; 0 leaves it to the executor."""
    retries: int
    """Attempts at each run."""
    tasks: int
    """Unfinished runs, of which other processes may be training some at first."""


class Executor(Protocol):
    """Starts attempts, and tells how they ended. It may be created only where it can start them.

    Creating one raises InputError if its package is not installed or its cluster does not answer.
    """

    poll_s: float
    """Seconds between two calls of `ended`."""

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        """Start an attempt at each task as soon as there is a place for it."""

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        """The attempts that have ended since the last call."""

    def close(self) -> None:
        """After the last run: leave nothing behind."""

    def interrupt(self) -> str:
        """After Ctrl-C: end the attempts so that they can be resumed, or leave them to the cluster; what was done."""


EXECUTORS: Registry[Callable[..., Executor]] = Registry("executors", package="folds.launching.executors")
"""Functions `(settings: LaunchSettings, options) -> Executor`; each is registered with `options`, the dataclass of its
options."""


def with_executor_options(command: type[Any], on: str, arguments: list[str]) -> type[Any]:
    """A dataclass of a command's options, its field `command`, and those of the executor that `--on` names, `executor`.

    `on` is the executor without that option. Raises InputError for an unknown one.
    """
    entry = EXECUTORS.entry(leading_options(arguments, "on")["on"] or on)
    schema = dataclasses.make_dataclass("Command", [("command", command), ("executor", entry.info["options"])])
    schema.__doc__ = command.__doc__
    return schema
