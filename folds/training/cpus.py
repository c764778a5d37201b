"""The CPUs on which this process may run: the number of cores, and how much of them other processes use."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
"""Linux's counters of CPU time; other systems do not have them."""


def allowed_cpus() -> set[int]:
    """The numbers of the logical CPUs on which this process may run."""
    if hasattr(os, "sched_getaffinity"):  # only Linux has it
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """The number of physical cores on which this process may run; two hardware threads of one core count once.

    If the system does not tell which CPUs share a core, each counts as one.
    """
    siblings = set()
    for cpu in allowed_cpus():
        try:
            siblings.add((topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="utf-8"))
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def cpu_quota(own_group: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU seconds per second allowed by this process's control group (cgroup v2) and its parents; inf if unlimited.

    This is how containers limit the total CPU time of their processes.
    """
    try:
        lines = own_group.read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    folder = groups / path.lstrip("/")
    quotas = []
    for group in (folder, *folder.parents):
        try:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
            quotas.append(int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or "max" for no limit
            continue
    return min(quotas, default=math.inf)


def busy_seconds(stat: str, cpus: set[int], ticks_per_second: int) -> float:
    """Seconds for which these CPUs have been busy since boot, from the text of /proc/stat.

    Time that a hypervisor gave to other virtual machines counts too. Format: proc(5).
    """
    ticks = 0
    for line in stat.splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / ticks_per_second


class LoadMeter:
    """Measures how many of this process's CPUs other processes keep busy.

    Raises OSError if there is no /proc/stat.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._cpus = allowed_cpus()
        self._last = self._read()

    @property
    def seconds(self) -> float:
        """Seconds since the last call of `others` or `restart`, or since the meter was created."""
        return time.monotonic() - self._last[0]

    def restart(self) -> None:
        """Start over: CPU time used until now does not count."""
        self._last = self._read()

    def others(self) -> float:
        """CPU seconds per second that other processes used since the last call: 1.5 is one and a half CPUs."""
        before, self._last = self._last, self._read()
        seconds, busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, busy - own) / seconds

    def _read(self) -> tuple[float, float, float]:
        """Time, CPU time of all processes, and CPU time of this one, in seconds."""
        stat = self._stat.read_text(encoding="utf-8")
        busy = busy_seconds(stat, self._cpus, os.sysconf("SC_CLK_TCK"))
        return time.monotonic(), busy, time.process_time()
