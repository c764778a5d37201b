"""How many CPU threads a run computes with: as many as `--threads` says, or as the machine has idle cores.

No fixed number is good everywhere. On two cores, pblstm_small trains 1.4 times faster with two threads than with one if
the machine is idle, and 3.6 times slower if another process keeps one core busy: threads wait for each other many times
in a step, and each wait lasts until the slowest has been given a core.
"""

from __future__ import annotations

import math
import os
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
"""The load is measured over windows of at least this length. /proc/stat counts hundredths of a second."""
QUIET_WINDOWS = 3
"""A thread is added only if its core was idle in so many windows, fewer at the start; one busy window removes it."""
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
    """The number of threads to continue with, 1 to `most`.

    `others` is what other processes used of the `cores` in each of the last windows, in cores, the latest last.
    """
    upper = math.floor(cores - others[-1] + SHARE_TO_REMOVE)
    lower = math.floor(cores - max(others) + SHARE_TO_ADD)
    return max(1, min(max(present, lower), upper, most))


class CPUThreads:
    """PyTorch's CPU threads in a run: a constant number, or with a meter 1 at first, then 1 to `most` by the load.

    Creating it sets the number. A run shorter than the first window stays at one thread.
    """

    def __init__(self, most: int, meter: LoadMeter | None = None) -> None:
        self.most = most
        self._meter = meter
        self._cores = physical_cores()
        self._others: list[float] = []
        torch.set_num_threads(most if meter is None else 1)

    @staticmethod
    def of_run(options: TrainOptions, parameters: int, device: torch.device, group: ProcessGroup) -> CPUThreads:
        """Those of `--threads`, which by default follow the load where one process trains on the CPU by wall time.

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
            return f"1 to {self.most} CPU threads by load"
        return f"{self.most} CPU thread" + ("s" if self.most > 1 else "")

    def adapt(self) -> None:
        """Between two steps: change the number if the load calls for it."""
        if self._meter is None or self._meter.seconds < WINDOW_SECONDS:
            return
        self._others = [*self._others[1 - QUIET_WINDOWS :], self._meter.others()]
        present = torch.get_num_threads()
        chosen = adapted_threads(present, self._cores, self._others, self.most)
        if chosen != present:
            torch.set_num_threads(chosen)
