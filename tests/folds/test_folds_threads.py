"""The number of CPU threads in a run: its limits, its trials of more threads, and what is recorded."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from training_runs import metric_rows, run, run_folder

from folds.training import threads
from folds.training.cpus import LoadMeter
from folds.training.distributed import ProcessGroup
from folds.training.options import RecipeOptions, TrainOptions
from folds.training.threads import SMALL_MODEL, CPUThreads, most_threads
from models import create_model
from registry import list_models

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LARGE = SMALL_MODEL + 1


@pytest.fixture(autouse=True)
def _one_thread_afterwards():
    yield
    torch.set_num_threads(1)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(threads, "physical_cores", lambda: 8)
    monkeypatch.setattr(threads, "cpu_quota", lambda: math.inf)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


class Meter:
    """A meter with a window that has always passed, and these loads one after the other."""

    seconds = 10.0

    def __init__(self, *others: float) -> None:
        self._others = iter(others)

    def others(self) -> float:
        return next(self._others)

    def restart(self) -> None:
        pass


def parameters(name: str) -> int:
    return sum(p.numel() for p in create_model(name, features=28, classes=41).parameters())


def test_limits(eight_cores, monkeypatch):
    for name in list_models("*_small"):
        assert parameters(name) <= SMALL_MODEL and most_threads(parameters(name)) == 4
    assert parameters("pblstm") > SMALL_MODEL and most_threads(parameters("pblstm")) == 8
    assert most_threads(LARGE, processes=4) == 2 and most_threads(LARGE, processes=16) == 1
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.5)
    assert most_threads(LARGE) == 2 and most_threads(LARGE, processes=2) == 1
    monkeypatch.setattr(threads, "cpu_quota", lambda: 0.5)
    assert most_threads(LARGE) == 1


def test_omp_num_threads_is_an_upper_limit(eight_cores, monkeypatch):
    for value, expected in (("3", 3), ("16", 8), ("0", 1), ("", 8), ("4,2", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert most_threads(LARGE) == expected


class Machine:
    """Simulates a run on it: so many cores, of which others use some, and a speed for each number of threads."""

    seconds = 1.0

    def __init__(self, speeds: dict[int, float]) -> None:
        self.speeds, self.load, self.restarts = speeds, 0.0, 0
        self.random = np.random.default_rng(0)
        self.noise = 0.0

    def others(self) -> float:
        return self.load

    def restart(self) -> None:
        self.restarts += 1

    def run(self, following: CPUThreads, windows: int) -> list[int]:
        """The numbers of threads in so many windows of a second, and the one after them."""
        counts = [torch.get_num_threads()]
        for _ in range(windows):
            speed = self.speeds[torch.get_num_threads()] * np.exp(self.noise * self.random.standard_normal())
            following.adapt(round(speed))
            counts.append(torch.get_num_threads())
        return counts


SCALING = {count: 1000.0 * count**0.8 for count in range(1, 9)}
FLAT = {count: 1000.0 - count for count in range(1, 9)}


def test_threads_that_help_are_added_and_kept(eight_cores):
    machine = Machine(SCALING)
    following = CPUThreads(8, machine)
    assert str(following) == "1 to 8 CPU threads by load and speed"
    assert machine.run(following, 15) == [1] * 3 + [2] * 4 + [4] * 4 + [8] * 5
    assert set(machine.run(following, 1000)) == {8}


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_never_more_threads_than_most(eight_cores, limit):
    machine = Machine(SCALING)
    assert machine.run(CPUThreads(limit, machine), 50)[-1] == limit
    assert max(machine.run(CPUThreads(limit, machine), 50)) == limit


def test_threads_that_do_not_help_are_tried_ever_more_rarely(eight_cores):
    machine = Machine(FLAT)
    counts = machine.run(CPUThreads(8, machine), 3600)
    begun = [window for window, (now, then) in enumerate(zip(counts[1:], counts, strict=False)) if now == 2 != then]
    pauses = np.diff(begun)
    assert 5 <= len(begun) <= 12 and (np.diff(pauses) >= 0).all() and 640 <= pauses.max() <= 650
    assert counts.count(1) > 0.99 * len(counts) and set(counts) == {1, 2}


def test_threads_that_help_little_are_not_kept(eight_cores):
    for gain, kept in ((1.08, 1), (1.12, 2)):
        machine = Machine({1: 1000.0, 2: 1000.0 * gain})
        following = CPUThreads(2, machine)
        assert machine.run(following, 8)[3:] == [2] * 3 + [kept] * 3


def test_a_trial_that_is_clearly_slower_ends_at_once(eight_cores):
    machine = Machine({1: 1000.0, 2: 300.0})
    assert machine.run(CPUThreads(2, machine), 8) == [1, 1, 1, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_keep_threads_from_being_found(eight_cores, seed):
    """Speeds of equal runs that differ by a tenth: within a minute the right number is used for most of the time."""
    for speeds, best in (({1: 1000.0, 2: 1450.0}, 2), ({1: 1000.0, 2: 700.0}, 1)):
        machine = Machine(speeds)
        machine.noise, machine.random = 0.1, np.random.default_rng(seed)
        following = CPUThreads(2, machine)
        machine.run(following, 60)
        counts = machine.run(following, 300)
        assert counts.count(best) > 0.85 * len(counts)


def test_a_busy_machine_takes_threads_away_and_gives_them_back(eight_cores):
    machine = Machine(SCALING)
    following = CPUThreads(8, machine)
    machine.run(following, 15)
    machine.load = 6.0
    assert machine.run(following, 5)[1:] == [2] * 5
    machine.load = 0.0
    assert machine.run(following, 15)[-1] == 8


def test_during_a_trial_load_returns_to_the_number_before(eight_cores):
    machine = Machine(SCALING)
    following = CPUThreads(8, machine)
    assert machine.run(following, 7)[-1] == 4  # two are kept, four are tried
    machine.load = 5.0  # three cores are left
    assert machine.run(following, 1)[-1] == 2


@pytest.mark.parametrize("in_vain", [0, 200])
def test_threads_that_help_no_more_are_given_up(in_vain, eight_cores):
    """Other work need not show in the load, where it takes memory bandwidth, or comes from another virtual machine.

    How long it takes until they are tried again does not depend on trials before they helped.
    """
    machine = Machine(FLAT)
    following = CPUThreads(2, machine)
    machine.run(following, in_vain)
    machine.speeds = {1: 1000.0, 2: 1400.0}
    assert machine.run(following, 10 + in_vain)[-1] == 2
    machine.speeds = {1: 1000.0, 2: 600.0}
    counts = machine.run(following, 60)
    assert counts[3] == 1 and counts.count(1) > 50
    machine.speeds = {1: 1000.0, 2: 1400.0}
    assert machine.run(following, 100)[-1] == 2


def test_only_steps_count(eight_cores):
    """What is computed between two epochs is in no window, and windows are not too short."""
    machine = Machine({1: 1000.0, 2: 2000.0})
    following = CPUThreads(2, machine)
    following.adapt(1000)
    machine.seconds = 0.5
    following.adapt(10**9)  # an unfinished window
    following.begin()
    assert machine.restarts == 1
    machine.seconds = 1.0
    assert machine.run(following, 5)[1:] == [1, 2, 2, 2, 2]


def no_load() -> LoadMeter:
    raise FileNotFoundError("/proc/stat")


def test_where_the_number_is_constant(eight_cores, monkeypatch):
    """With `--threads`; on a GPU, in a group, by CPU time, with one core; and where the load is not known."""
    alone, pair = ProcessGroup(), ProcessGroup(0, 2, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    by_cpu_time = RecipeOptions(minutes=1, clock="cpu")

    def chosen(parameters=LARGE, device=CPU, group=alone, **options) -> int:
        found = CPUThreads.of_run(TrainOptions(**options), parameters, device, group)
        assert torch.get_num_threads() == found.most
        assert str(found) == f"{found.most} CPU thread" + ("s" if found.most > 1 else "")
        found.begin()
        found.adapt(1000)
        return torch.get_num_threads()

    monkeypatch.setattr(threads, "LoadMeter", lambda: Meter(0.0))
    assert str(CPUThreads.of_run(TrainOptions(), LARGE, CPU, alone)) == "1 to 8 CPU threads by load and speed"
    assert chosen(threads=3) == 3 and chosen(threads=16) == 16
    assert chosen(device=CUDA) == 8 and chosen(group=pair) == 4
    assert chosen(recipe=by_cpu_time) == 1
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert chosen() == 1
    monkeypatch.setattr(threads, "LoadMeter", no_load)
    assert chosen() == 4 and chosen(parameters=1) == 4
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)
    assert chosen() == 1


def test_a_run_records_its_threads(tiny, tmp_path, monkeypatch, capsys, eight_cores):
    """Three epochs, in the second of which another process is busy. On a busy machine two threads would be slow."""
    number = [1]
    monkeypatch.setattr(torch, "set_num_threads", lambda chosen: number.__setitem__(0, chosen))
    monkeypatch.setattr(torch, "get_num_threads", lambda: number[0])
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)
    monkeypatch.setattr(threads.SpeedTrials, "next", lambda self, present, allowed, speed: allowed)
    epochs = iter([0.0] * 4 + [1.0] * 4 + [0.0] * 4)
    monkeypatch.setattr(threads, "LoadMeter", lambda: Meter(*epochs))
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--threads", "0")
    folder = run_folder(tmp_path)
    assert metric_rows(folder)[-1]["step"] == 12  # epochs have four batches
    timing = [json.loads(line)["threads"] for line in (folder / "timing.jsonl").read_text().splitlines()]
    assert timing == [2, 1, 2]
    hardware = json.loads((folder / "config.json").read_text())["hardware"]
    assert (hardware["threads"], hardware["max_threads"]) == (1, 2)
    assert "1 to 2 CPU threads by load and speed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "None 1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "7"}, "None 7"),
    ],
)
def test_openmp_spins_briefly_unless_the_user_decides(given, expected):
    """The variables are set when PyTorch is imported, which reads them."""
    code = """
import os, sys
class Watcher:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(*map(os.environ.get, ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watcher())
import folds.train
"""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
