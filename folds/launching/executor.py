"""Executors: where tasks run. To add one, add a file to `folds/launching/executors`.

docs/tutorials/executor.md has a complete example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from folds.launching.attempt import Outcome
from folds.launching.executor_task import ExecutorTask
from registry import Registry
from registry.bounds import Bounded, number
from registry.command_line import leading_options


@dataclasses.dataclass(frozen=True)
class Resources(Bounded):
    """What each run needs on a machine of the cluster."""

    gpus: int = number(1, at_least=0, at_most=1)
    """1 trains on a GPU, 0 on CPUs. Several GPUs in one run need torchrun."""
    cpus: int = number(4, at_least=1, at_most=1024)
    """CPU cores."""
    memory: float = number(0.0, at_least=0, at_most=100_000)
    """GB of memory; 0 means the cluster's default."""

    @property
    def device(self) -> str:
        """The default of `--device`: this machine may have no GPU even if those do."""
        return "cuda" if self.gpus else "cpu"


@dataclasses.dataclass(frozen=True)
class LaunchSettings:
    """The settings that an executor gets."""

    runs: Path
    """The runs folder, absolute."""
    jobs: int
    """Maximum number of runs at the same time; 0 leaves it to the executor."""
    retries: int
    """Maximum number of attempts at each run."""
    tasks: int
    """Number of unfinished runs; other processes may be training some of them at first."""


@runtime_checkable
class Executor(Protocol):
    """Starts attempts, and reports how they ended. It may be created only where it can start them.

    The constructor raises InputError if it cannot start any here: its package is not installed, or its cluster does not
    respond.
    """

    poll_s: float
    """Seconds between two calls of `ended`."""

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        """Start an attempt at each task as soon as there is a free slot."""

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        """The attempts that have ended since the last call."""

    def close(self) -> None:
        """Clean up after the last run."""

    def interrupt(self) -> str:
        """After Ctrl-C, end the attempts so that they can be resumed, or leave them to the cluster; says which."""


MakeExecutor = Callable[[LaunchSettings, Any], Executor]
"""Makes an executor from its settings and an instance of its dataclass of options."""

EXECUTORS: Registry[MakeExecutor] = Registry("executors", package="folds.launching.executors")


def register_executor(
    name: str, options: type[Any], *, on_this_machine: bool = False
) -> Callable[[MakeExecutor], MakeExecutor]:
    """Register a function as the executor `name`.

    `options` is the dataclass of its options, which the command line accepts with `--on name`. Its `device` ("auto",
    "cpu" or "cuda"), a property or class attribute, is the default of `--device`. `on_this_machine` says that tasks are
    processes on this machine: their hours are estimated from its speed, and a search with one job, which needs no other
    process, is done without the executor.

    Raises TypeError unless `options` is such a dataclass.
    """
    _check_options(options)
    return EXECUTORS.register(name, options=options, on_this_machine=on_this_machine)


def is_on_this_machine(name: str) -> bool:
    """Whether an executor's tasks are processes on this machine."""
    return bool(EXECUTORS.entry(name).info.get("on_this_machine"))


def all_options() -> dict[str, type[Any]]:
    """The options dataclass of each executor that was registered with one, by the executor's name."""
    registered = {name: EXECUTORS.entry(name).info.get("options") for name in EXECUTORS.names()}
    return {name: it for name, it in registered.items() if isinstance(it, type) and dataclasses.is_dataclass(it)}


def create_executor(name: str, settings: LaunchSettings, options: Any) -> Executor:
    """The executor `name`. Raises InputError if it cannot start tasks here, and PlugInError for a faulty plug-in."""
    with EXECUTORS.using(name):
        executor = EXECUTORS.get(name)(settings, options)
        if not isinstance(executor, Executor):
            kind = type(executor).__name__
            raise TypeError(f"made a {kind}; expected an object with poll_s, submit, ended, close and interrupt")
    return executor


def with_executor_options(command: type[Any], on: str, arguments: list[str]) -> type[Any]:
    """A dataclass with two fields: `command` with a command's options, `executor` with those of the `--on` executor.

    `on` is the default executor. Raises InputError for an unknown one, and PlugInError for a plug-in that was
    registered without options.
    """
    entry = EXECUTORS.entry(leading_options(arguments, "on")["on"] or on)
    options = entry.info.get("options")
    with EXECUTORS.using(entry.name):
        _check_options(options)
    schema = dataclasses.make_dataclass("Command", [("command", command), ("executor", options)])
    schema.__doc__ = command.__doc__
    return schema


def _check_options(options: Any) -> None:
    """Raise TypeError for all but a dataclass with a `device` that is no field: `--device` is the commands' own."""
    fields = [field.name for field in dataclasses.fields(options)] if dataclasses.is_dataclass(options) else None
    if not isinstance(options, type) or fields is None or "device" in fields or not hasattr(options, "device"):
        shown = getattr(options, "__name__", options)
        raise TypeError(
            f"registered with options={shown}; expected @register_executor(name, options=…) with a dataclass that has "
            "`device` as a property or class attribute"
        )
