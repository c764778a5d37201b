"""How many CPU threads a run computes with."""

from __future__ import annotations

import os
from pathlib import Path

SMALL_MODEL = 4_000_000
"""Parameters up to which one thread is the default: more than the largest *_small model has (2.3 M), and less than any
other (12.4 M). On two cores, two epochs of pblstm_small took 26.0 s with two threads and 18.6 s with one; beside
another busy process they took 42.1 s and 18.5 s."""


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
