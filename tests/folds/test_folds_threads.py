"""The number of CPU threads: its limits, and how it follows the load of the machine."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_runs import metric_rows, run, run_folder

from folds.training import threads
from folds.training.cpus import LoadMeter
from folds.training.distributed import ProcessGroup
from folds.training.options import RecipeOptions, TrainOptions
from folds.training.threads import SMALL_MODEL, CPUThreads, adapted_threads, most_threads
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


@pytest.mark.parametrize(
    ("present", "cores", "others", "expected"),
    [
        (1, 2, [0.0], 2),  # idle
        (1, 2, [0.1], 2),  # as good as idle
        (1, 2, [0.3], 1),  # not idle enough to begin with
        (2, 2, [0.3], 2),  # nor busy enough to give up
        (2, 2, [0.4], 1),
        (2, 2, [1.0], 1),
        (1, 2, [1.0], 1),
        (1, 2, [2.0], 1),  # never none
        (1, 8, [0.0], 8),
        (8, 8, [3.2], 5),
        (5, 8, [3.2], 5),
        (5, 8, [0.0], 8),
        (1, 2, [1.0, 0.0, 0.0], 1),  # not idle for long enough
        (2, 2, [0.0, 0.0, 1.0], 1),  # a busy window counts at once
    ],
)
def test_as_many_threads_as_there_are_idle_cores(present, cores, others, expected):
    assert adapted_threads(present, cores, others, most=8) == expected
    assert adapted_threads(present, cores, others, most=3) == min(expected, 3)


@given(
    present=st.integers(1, 64),
    cores=st.integers(1, 64),
    others=st.lists(st.floats(0, 70), min_size=1, max_size=3),
    most=st.integers(1, 64),
)
def test_a_number_is_kept_until_the_load_changes_much(present, cores, others, most):
    """Once chosen, it stays while the load does, and while it changes by less than a tenth of a core."""
    chosen = adapted_threads(present, cores, others, most)
    assert 1 <= chosen <= most
    assert adapted_threads(chosen, cores, others, most) == chosen
    for change in (-0.09, 0.09):
        moved = [max(0.0, load + change) for load in others]
        later = adapted_threads(chosen, cores, moved, most)
        assert adapted_threads(later, cores, others, most) == later  # it may move once, and does not move back


@pytest.mark.parametrize("cores", [2, 4, 8])
@pytest.mark.parametrize("at_once", [True, False])
def test_runs_side_by_side_share_the_cores(cores, at_once):
    """Each sees what the other uses, where the system shares the cores equally among all threads.

    Runs that measure at the same moments get equal numbers; otherwise the one that measures first may get fewer.
    """

    def others(counts: list[int], run: int) -> float:
        return counts[1 - run] * min(1.0, cores / sum(counts))

    counts = [cores, cores]
    for _ in range(10):
        seen = [others(counts, 0), others(counts, 1)]
        counts[0] = adapted_threads(counts[0], cores, seen[:1], cores)
        seen = seen if at_once else [others(counts, 0), others(counts, 1)]
        counts[1] = adapted_threads(counts[1], cores, seen[1:], cores)
    assert sum(counts) == cores and (not at_once or counts[0] == counts[1])
    assert adapted_threads(counts[0], cores, [0.0], cores) == cores  # the other one has ended


def test_the_number_follows_the_load(eight_cores):
    loads = [5.0, 2.0, 2.0, 2.0, 0.0, 6.0, 0.0, 0.0, 0.0]
    following = CPUThreads(8, Meter(*loads))
    assert torch.get_num_threads() == 1 and str(following) == "1 to 8 CPU threads by load"
    counts = []
    for _ in loads:
        following.adapt()
        counts.append(torch.get_num_threads())
    assert counts == [3, 3, 3, 6, 6, 2, 2, 2, 8]


def test_no_window_is_too_short(eight_cores, monkeypatch):
    """A run that ends before its first window never changes its number of threads."""
    meter = Meter(0.0)
    meter.seconds = threads.WINDOW_SECONDS / 2
    following = CPUThreads(8, meter)
    following.adapt()
    assert torch.get_num_threads() == 1
    meter.seconds = threads.WINDOW_SECONDS
    following.adapt()
    assert torch.get_num_threads() == 8


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
        found.adapt()
        return torch.get_num_threads()

    monkeypatch.setattr(threads, "LoadMeter", lambda: Meter(0.0))
    assert str(CPUThreads.of_run(TrainOptions(), LARGE, CPU, alone)) == "1 to 8 CPU threads by load"
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
    epochs = iter([0.0] * 4 + [1.0] * 4 + [0.0] * 4)
    monkeypatch.setattr(threads, "LoadMeter", lambda: Meter(*epochs))
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--threads", "0")
    folder = run_folder(tmp_path)
    assert metric_rows(folder)[-1]["step"] == 12  # epochs have four batches
    timing = [json.loads(line)["threads"] for line in (folder / "timing.jsonl").read_text().splitlines()]
    assert timing == [2, 1, 2]
    hardware = json.loads((folder / "config.json").read_text())["hardware"]
    assert (hardware["threads"], hardware["max_threads"]) == (1, 2)
    assert "1 to 2 CPU threads by load" in capsys.readouterr().out


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
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watcher())
import folds.train
"""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
