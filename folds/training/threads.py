"""How many CPU threads a run computes with: as many as `--threads` says, or as idle cores make it faster.

No fixed number is good everywhere. On two cores, pblstm_small trains 1.4 times faster with two threads than with one if
the machine is idle, and 3.6 times slower if another process keeps one core busy: threads wait for each other many times
in a step, and each wait lasts until the slowest has been given a core. And idle cores do not make every model faster:
gru_small gains nothing from a second thread on some machines. So the load says how many threads may be tried, and the
speed of training which number is kept.
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
"""Parameters up to which a model is small: more than the largest *_small model has (2.3 M), and less than any other."""
SMALL_MODEL_THREADS = 4
"""Most threads for a small model. Two threads make pblstm_small 1.37 times faster, so by Amdahl's law about half of its
step runs in parallel: four would gain another 1.23 times, and any number of more at most 1.3. It has not been measured
on more than two cores."""

WINDOW_SECONDS = 1.0
"""Load and speed are measured over windows of at least this length. /proc/stat counts hundredths of a second."""
WINDOWS = 3
"""A number of threads is judged by the median speed of this many windows. More are tried only if their cores were idle
in as many windows, fewer at the start; one busy window removes them."""
GAIN = 1.1
"""More threads are kept if they train this many times faster: what they cost other processes should buy something, and
speeds of equal runs differ by some per cent."""
CLEARLY_SLOWER = 0.8
"""A first window of this share of the former speed ends a trial."""
FIRST_PAUSE, LONGEST_PAUSE = 10, 640
"""Windows until the next trial after one that failed; each further failure doubles them. Where a second thread
makes steps slower by a fifth or more, a trial is one window: 5 % of the first minute, and 0.3 % of an hour."""
SHARE_TO_REMOVE, SHARE_TO_ADD = 0.35, 0.2
"""Shares of a core that others must use before its thread is removed, and at most for one to be added. A second thread
that makes steps 1.4 to 1.65 times faster does so no more once its core is taken for 0.3 to 0.4 of the time. Between the
two shares the number stays as it is, so that it does not alternate."""


def most_threads(parameters: int, processes: int = 1) -> int:
    """The most threads for a model of this size: the physical cores of this process, shared by `processes`.

    OMP_NUM_THREADS, which torchrun sets too, and the CPU quota of a container are upper limits.
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

    `others` is what other processes used of the `cores` in each of the last windows, in cores, the latest last.
    """
    upper = math.floor(cores - others[-1] + SHARE_TO_REMOVE)
    lower = math.floor(cores - max(others) + SHARE_TO_ADD)
    return max(1, min(max(present, lower), upper, most))


class SpeedTrials:
    """Chooses the number of threads by the speed of training, within what the load allows.

    It starts at 1. More threads, twice as many at a time, are tried for some windows, and kept if they are faster; if
    not, they are tried again after a pause, since other work may have slowed them down. Those kept are given up when
    training becomes slower than it was with fewer.
    """

    def __init__(self) -> None:
        self._kept = 1
        self._speeds: list[float] = []  # of the number kept, the latest last
        self._fewer: tuple[int, float] | None = None  # the number before this one, and its speed
        self._trial: list[float] | None = None
        self._until_trial, self._pause = 0, FIRST_PAUSE

    def next(self, present: int, allowed: int, speed: float) -> int:
        """The number to continue with after a window in which `present` threads trained at this speed.

        `allowed` is how many the load of the machine allows now.
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
        """The number after another window of a trial."""
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
    """PyTorch's CPU threads in a run: a constant number, or with a meter 1 at first, then 1 to `most` as it is faster.

    Creating it sets the number. A run shorter than some windows stays at one thread.
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
        """Those of `--threads`, which by default follow load and speed where one process trains on a CPU by wall time.

        Elsewhere they are constant: with `--clock cpu`, by which a second thread would shorten the run, one; and half
        of the CPUs on systems that do not report their load, since there the two threads of a core, or slow cores,
        count as CPUs.
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
        """Before the first of several steps: what was computed since the last one does not count."""
        self._frames = 0
        if self._meter is not None:
            self._meter.restart()

    def adapt(self, frames: int) -> None:
        """After a step of `frames` frames: change the number if load or speed call for it."""
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
