"""How many CPU threads a run computes with."""

from __future__ import annotations

import os
from pathlib import Path

SMALL_MODEL = 4_000_000
"""Parameters up to which one thread is the default: more than the largest *_small model has (2.3 M), and less than any
other (12.4 M). On two cores pblstm_small trains at 40,400 frames/s with one thread and at 62,900 with two; beside
another busy process at 44,300 and 19,200. Nobody knows beforehand how busy a machine will be, and one thread loses
least: 1.6 times on an idle machine, where two would lose 2.3 times on a busy one."""


def default_threads(parameters: int, processes: int = 1) -> int:
    """Threads for a model of this size: 1 if it is small, else the physical cores of this process.

    `processes` share the cores. OMP_NUM_THREADS, which torchrun sets too, is an upper limit.
    """
    if parameters <= SMALL_MODEL:
        return 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = max(1, physical_cores() // processes)
    return min(cores, max(1, int(limit))) if limit.isdecimal() else cores


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """The physical cores on which this process may run; two hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):  # only Linux has it
        return os.cpu_count() or 1
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        try:
            siblings.add((topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="utf-8"))
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)
