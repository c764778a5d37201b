"""The number of CPU threads of a run: given by `--threads`, or adapted to idle cores and training speed.

No fixed number is good everywhere. On two cores, pblstm_small trains 1.4 times faster with two threads than with one if
the machine is idle, and 3.6 times slower if another process keeps one core busy: threads wait for each other many times
per step, each time until the slowest one has been scheduled. And idle cores do not make every model faster: gru_small
gains nothing from a second thread on some machines. So the load limits how many threads are tried, and the training
speed decides which number is kept.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence

import torch

from folds.training.cpus import LoadMeter, cpu_quota, physical_cores
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainOptions

SMALL_MODEL = 4_000_000
"""Maximum parameters of a small model: more than the largest *_small model has (2.3 M), and fewer than any other."""
SMALL_MODEL_THREADS = 4
"""Maximum threads for a small model. Two threads make pblstm_small 1.37 times faster, so by Amdahl's law about half of
a step runs in parallel: four would gain another factor of 1.23, and any further threads at most 1.3. Not measured on
more than two cores."""

WINDOW_SECONDS = 1.0
"""Load and speed are measured over windows of at least this length. /proc/stat counts hundredths of a second."""
WINDOWS = 3
"""A number of threads is judged by the median speed of this many windows. More threads are tried only if their cores
were idle in as many windows (fewer at the start); one busy window removes them."""
GAIN = 1.1
"""More threads are kept if they train this many times faster: they take CPU time from other processes, so the gain
should be clear, and the speed of identical runs varies by several per cent."""
CLEARLY_SLOWER = 0.8
"""A trial ends if its first window falls to this fraction of the previous speed."""
FIRST_PAUSE, LONGEST_PAUSE = 10, 640
"""Windows until the next trial after a failed one; each further failure doubles them. If a second thread makes steps
slower by a fifth or more, a trial is one window: 5 % of the first minute, and 0.3 % of an hour."""
SHARE_TO_REMOVE, SHARE_TO_ADD = 0.35, 0.2
"""Shares of a core: a thread is removed if other processes use more than the first, and added if they use at most the
second. A second thread that makes steps 1.4 to 1.65 times faster gains nothing once others use its core for 0.3 to 0.4
of the time. Between the two shares the number does not change, so that it does not oscillate."""


def most_threads(parameters: int, processes: int = 1) -> int:
    """Maximum threads for a model of this size: the physical cores of this process, divided among `processes`.

    OMP_NUM_THREADS (which torchrun sets) and the CPU quota of a container are upper limits.
    """
    limits = [physical_cores() // processes, cpu_quota() / processes]
    if parameters <= SMALL_MODEL:
        limits.append(SMALL_MODEL_THREADS)
    variable = os.environ.get("OMP_NUM_THREADS", "")
    if variable.isdecimal():
        limits.append(int(variable))
    return max(1, math.floor(min(limits)))


def adapted_threads(present: int, cores: int, others: Sequence[float], most: int) -> int:
    """The number of threads that the load allows, 1 to `most`.

    `others` is how many of the `cores` other processes used in each of the last windows, the latest last.
    """
    upper = math.floor(cores - others[-1] + SHARE_TO_REMOVE)
    lower = math.floor(cores - max(others) + SHARE_TO_ADD)
    return max(1, min(max(present, lower), upper, most))


class SpeedTrials:
    """Chooses the number of threads by training speed, within what the load allows.

    It starts at 1. Twice as many threads are tried for some windows, and kept if they are faster; if not, they are
    tried again after a pause, since other work may have slowed them down. They are given up later if training becomes
    slower than it was with fewer.
    """

    def __init__(self) -> None:
        self._kept = 1
        self._speeds: list[float] = []  # with the number kept, the latest last
        self._fewer: tuple[int, float] | None = None  # the number before this one, and its speed
        self._trial: list[float] | None = None
        self._until_trial, self._pause = 0, FIRST_PAUSE

    def next(self, present: int, allowed: int, speed: float) -> int:
        """The number of threads to continue with, after a window in which `present` threads trained at this speed.

        `allowed` is how many threads the machine's load allows now.
        """
        if allowed < present:
            return self._keep(min(self._kept, allowed), [], None)
        if self._trial is not None:
            return self._judge(present, speed)
        self._speeds = [*self._speeds[1 - WINDOWS :], speed]
        self._until_trial = max(0, self._until_trial - 1)
        if len(self._speeds) < WINDOWS:
            return present
        if self._fewer is not None and statistics.median(self._speeds) < self._fewer[1]:
            return self._give_up(self._fewer[0], [])
        if allowed > present and self._until_trial == 0:
            self._trial = []
            return min(2 * present, allowed)
        return present

    def _judge(self, present: int, speed: float) -> int:
        """The number of threads after another window of a trial."""
        assert self._trial is not None
        self._trial.append(speed)
        before = statistics.median(self._speeds)
        if self._trial[0] < CLEARLY_SLOWER * before:
            return self._give_up(self._kept, self._speeds)
        if len(self._trial) < WINDOWS:
            return present
        if statistics.median(self._trial) < GAIN * before:
            return self._give_up(self._kept, self._speeds)
        self._pause = FIRST_PAUSE
        return self._keep(present, self._trial, (self._kept, before))

    def _give_up(self, fewer: int, speeds: list[float]) -> int:
        self._until_trial, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return self._keep(fewer, speeds, None)

    def _keep(self, number: int, speeds: list[float], fewer: tuple[int, float] | None) -> int:
        self._kept, self._speeds, self._fewer, self._trial = number, speeds, fewer, None
        return number


class CPUThreads:
    """PyTorch's CPU threads in a run: a constant number, or with a meter starting at 1 and adapted from 1 to `most`.

    The constructor sets the number. A run shorter than a few windows stays at one thread.
    """

    def __init__(self, most: int, meter: LoadMeter | None = None) -> None:
        self.most = most
        self._meter = meter
        self._cores = physical_cores()
        self._others: list[float] = []
        self._frames = 0
        self._trials = SpeedTrials()
        torch.set_num_threads(most if meter is None else 1)

    @staticmethod
    def of_run(options: TrainOptions, parameters: int, device: torch.device, group: ProcessGroup) -> CPUThreads:
        """The threads of `--threads`; by default they adapt if a single process trains on a CPU by wall time.

        Otherwise they are constant: one with `--clock cpu`, because a second thread would use up the budget faster; and
        half of the CPUs on systems that do not report their load, since there both hardware threads of a core, or slow
        cores, count as CPUs.
        """
        if options.threads:
            return CPUThreads(options.threads)
        most = most_threads(parameters, group.local_size)
        if device.type != "cpu" or group.size > 1:
            return CPUThreads(most)
        if most == 1 or (options.recipe.minutes is not None and options.recipe.clock == "cpu"):
            return CPUThreads(1)
        try:
            return CPUThreads(most, LoadMeter())
        except OSError:
            return CPUThreads(max(1, min(most, physical_cores() // 2)))

    def __str__(self) -> str:
        if self._meter is not None:
            return f"1 to {self.most} CPU threads by load and speed"
        return f"{self.most} CPU thread" + ("s" if self.most > 1 else "")

    def begin(self) -> None:
        """Call before the first of several steps: what was computed since the last step does not count."""
        self._frames = 0
        if self._meter is not None:
            self._meter.restart()

    def adapt(self, frames: int) -> None:
        """Call after a step of `frames` frames: changes the number of threads if load or speed require it."""
        if self._meter is None:
            return
        self._frames += frames
        seconds = self._meter.seconds
        if seconds < WINDOW_SECONDS:
            return
        speed, self._frames = self._frames / seconds, 0
        self._others = [*self._others[1 - WINDOWS :], self._meter.others()]
        present = torch.get_num_threads()
        allowed = adapted_threads(present, self._cores, self._others, self.most)
        chosen = self._trials.next(present, allowed, speed)
        if chosen != present:
            torch.set_num_threads(chosen)
