"""Processes on this machine, with its GPUs or its cores divided among them."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import torch

from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.executor import LaunchSettings, register_executor
from folds.launching.executor_task import ExecutorTask
from folds.training.cpus import cpu_quota, physical_cores

STOP_S = 120.0
"""Seconds that a process has to finish its step and save its state."""


@dataclasses.dataclass(frozen=True)
class LocalOptions:
    """Processes on this machine have no further options."""

    device: ClassVar[str] = "auto"


@dataclasses.dataclass(frozen=True)
class MachineShare:
    """The share of the machine that one process gets."""

    threads: int
    gpu: str = ""
    """An entry of CUDA_VISIBLE_DEVICES; empty for training on the CPU."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of its processes."""
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}
        return {"OMP_NUM_THREADS": str(self.threads), **gpu}


def divide_machine(jobs: int, tasks: int, cores: int, gpus: Sequence[str]) -> list[MachineShare]:
    """The shares of processes that run at the same time; 0 jobs means one per GPU, or without GPUs one per core.

    Two processes with one thread each train more frames/s together than one process with two, since threads wait for
    each other; so there are as many processes as tasks, if possible, and remaining cores become threads.

    >>> [share.threads for share in divide_machine(0, tasks=3, cores=8, gpus=[])]
    [2, 2, 2]
    >>> [share.gpu for share in divide_machine(3, tasks=9, cores=8, gpus=["0", "1"])]
    ['0', '1', '0']
    """
    count = max(1, min(jobs or len(gpus) or cores, tasks))
    threads = max(1, cores // count)
    return [MachineShare(threads, gpus[index % len(gpus)] if gpus else "") for index in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as entries of CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    named = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def divide_here(tasks: Sequence[ExecutorTask], jobs: int, count: int) -> list[MachineShare]:
    """The shares of this machine for `count` tasks, the first of which are `tasks`."""
    on_gpu = any(task.device == "cuda" for task in tasks)
    cores = max(1, int(min(physical_cores(), cpu_quota())))
    return divide_machine(jobs, count, cores, visible_gpus() if on_gpu else [])


class LocalExecutor:
    """Starts a process for the next task whenever one of the shares is free."""

    poll_s = 0.5

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings
        self._free: list[MachineShare] | None = None
        self._queue: deque[ExecutorTask] = deque()
        self._running: dict[ExecutorTask, tuple[RunningAttempt, MachineShare]] = {}

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        if self._free is None and tasks:
            self._free = divide_here(tasks, self._settings.jobs, self._settings.tasks)
        self._queue.extend(tasks)
        self._start()

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        done = [(task, outcome) for task, (attempt, _) in self._running.items() if (outcome := attempt.poll())]
        for task, _ in done:
            assert self._free is not None
            self._free.append(self._running.pop(task)[1])
        self._start()
        return done

    def close(self) -> None:
        """Nothing to do: its processes have ended."""

    def interrupt(self) -> str:
        self._queue.clear()
        for attempt, _ in self._running.values():
            attempt.stop()
        deadline = time.monotonic() + STOP_S
        while self._running:
            number = signal.SIGKILL if time.monotonic() > deadline else None
            for task, (attempt, _) in list(self._running.items()):
                if attempt.poll() is not None:
                    del self._running[task]
                elif number is not None:
                    attempt.stop(number)
            time.sleep(0.05)
        return "stopped; the state is saved: continue with the same command"

    def _start(self) -> None:
        while self._queue and self._free:
            task, share = self._queue.popleft(), self._free.pop(0)
            threads = None if share.gpu else share.threads
            attempt = RunningAttempt(task, "local", threads=threads, environment=share.environment)
            self._running[task] = (attempt, share)


@register_executor("local", options=LocalOptions, on_this_machine=True)
def local(settings: LaunchSettings, options: LocalOptions) -> LocalExecutor:
    """Processes on this machine, with its GPUs or its cores divided among them."""
    return LocalExecutor(settings)
