"""The CPUs of this process: cores, quotas, and how much of them other processes use."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from folds.training import cpus
from folds.training.cpus import LoadMeter, allowed_cpus, busy_seconds, cpu_quota, physical_cores


def test_two_hardware_threads_are_one_core(tmp_path, monkeypatch):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    for affinity, cores in (({0, 1, 2, 3}, 2), ({0, 2}, 1), ({0, 9}, 2)):  # of CPU 9 nothing is known
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, affinity=affinity: affinity, raising=False)
        assert physical_cores(tmp_path) == cores
    monkeypatch.delattr(os, "sched_getaffinity")
    assert physical_cores(tmp_path / "nothing") == os.cpu_count()


def test_the_smallest_quota_of_the_groups_around_applies(tmp_path):
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    (groups / "a" / "b").mkdir(parents=True)
    assert cpu_quota(own, groups) == math.inf  # not Linux
    own.write_text("0::/a/b\n")
    assert cpu_quota(own, groups) == math.inf  # no limits at all
    (groups / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(own, groups) == math.inf
    (groups / "a" / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(own, groups) == 1.5
    (groups / "a" / "b" / "cpu.max").write_text("400000 100000\n")
    assert cpu_quota(own, groups) == 1.5
    own.write_text("3:cpu:/x\n0::/\n")  # what a container sees of itself
    (groups / "cpu.max").write_text("50000 100000\n")
    assert cpu_quota(own, groups) == 0.5


STAT = """cpu  1000 100 10 90000 5 4 3 2 50 1
cpu0 {0} 100 10 90000 5 4 3 2 50 1
cpu1 {1} 0 0 90000 5 0 0 0 0 0
cpu10 {2} 0 0 90000 5 0 0 0
intr 1 2 3
"""


def test_busy_time_is_that_of_the_cpus_named():
    """Guest time, the two last columns, is part of user and nice time already."""
    stat = STAT.format(500, 300, 100)
    assert busy_seconds(stat, {0}, 100) == pytest.approx(5 + 1 + 0.1 + 0.04 + 0.03 + 0.02)
    assert busy_seconds(stat, {1}, 100) == 3 and busy_seconds(stat, {10}, 100) == 1
    assert busy_seconds(stat, {1, 10, 99}, 50) == 8


def test_the_load_of_others_is_busy_time_without_our_own(tmp_path, monkeypatch):
    clocks = [(100.0, 7.0), (102.0, 8.5), (106.0, 16.5)]  # wall and own CPU seconds
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: {0, 1})
    monkeypatch.setattr(os, "sysconf", lambda name: 100, raising=False)
    clock = SimpleNamespace(monotonic=lambda: clocks[0][0], process_time=lambda: clocks[0][1])
    monkeypatch.setattr(cpus, "time", clock)
    stat = tmp_path / "stat"
    with pytest.raises(OSError, match="No such file"):
        LoadMeter(stat)
    stat.write_text(STAT.format(0, 0, 0))
    meter = LoadMeter(stat)
    del clocks[0]
    assert meter.seconds == 2
    stat.write_text(STAT.format(200, 150, 9999))  # 3.5 s, of which 1.5 are ours
    assert meter.others() == pytest.approx(1.0)
    del clocks[0]
    stat.write_text(STAT.format(600, 500, 9999))  # 7.5 s, fewer than our 8: ticks are coarse
    assert (meter.seconds, meter.others(), meter.seconds) == (4, 0, 0)


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.skipif(not cpus.STAT.exists(), reason="measures the load by /proc/stat")
def test_a_busy_child_process_is_seen_and_we_are_not():
    """Holds whatever else runs on the machine: at least the child's time, at most what we leave of the CPUs."""
    meter = LoadMeter()
    before, own = children_seconds(), time.process_time()
    code = "import time\nwhile time.process_time() < 0.5: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        while time.process_time() - own < 0.2:
            pass
        assert child.wait(timeout=120) == 0
    seconds, others = meter.seconds, meter.others()
    used = children_seconds() - before
    assert used >= 0.5 and others * seconds >= 0.8 * used
    assert others <= len(allowed_cpus()) - 0.2 / seconds + 0.1
