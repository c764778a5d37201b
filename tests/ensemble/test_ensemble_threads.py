"""The number of threads: one setting, which changes no result and leaves PyTorch's number alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ensemble.members.stores import StoresOptions
from ensemble.threads import for_ranges, map_threads, set_worker_threads, worker_threads
from registry.errors import InputError


@pytest.fixture(autouse=True)
def _restored():
    before = worker_threads()
    yield
    set_worker_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_ranges_cover_every_index_once(threads, count):
    set_worker_threads(threads)
    seen: list[int] = []
    for_ranges(lambda first, last: seen.extend(range(first, last)), count)
    assert sorted(seen) == list(range(count))


def test_results_are_in_the_order_of_the_items():
    assert list(map_threads(lambda item: item * item, range(50), threads=4)) == [item * item for item in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(map_threads(lambda item: 1 // item, [1, 0], threads=2))


def test_a_number_below_one_is_refused():
    with pytest.raises(InputError, match="threads: 0; expected 1 or more"):
        set_worker_threads(0)
    set_worker_threads(None)
    assert worker_threads() >= 1


def test_fitting_leaves_the_number_of_torch_threads_alone_and_threads_change_no_result():
    """Numba's own threads would raise it; in a process of its own, since they cannot be stopped again."""
    script = """
import torch
torch.set_num_threads(1)
import simulated_members as simulated
from ensemble.blenders.base import BLENDERS
from ensemble.threads import set_worker_threads
references = simulated.references(10, length=6)
recipes = []
for threads in (1, 3):
    set_worker_threads(threads)
    members = {name: [simulated.log_probs(references, seed=seed)] for seed, name in enumerate("ab")}
    inputs = simulated.inputs(members, references, nbest_size=5, pool_size=8)
    blenders = [BLENDERS.get(name)() for name in ("average", "mbr")]
    fitted = [blender.fit(inputs) for blender in blenders]
    recipes.append([fitted, [blender.predict(inputs, recipe) for blender, recipe in zip(blenders, fitted)]])
print(torch.get_num_threads(), recipes[0] == recipes[1])
"""
    paths = os.pathsep.join(["tests/ensemble", os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": paths, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.split() == ["1", "True"]


def test_threads_are_set_for_searches_and_for_networks(monkeypatch):
    given = []
    monkeypatch.setattr("ensemble.members.stores.set_worker_threads", given.append)
    monkeypatch.setattr("torch.set_num_threads", given.append)
    StoresOptions().use_threads()
    assert given == []
    StoresOptions(threads=3).use_threads()
    assert given == [3, 3]
    with pytest.raises(InputError, match="--threads 1000: expected 0 to [0-9]+, four per CPU"):
        StoresOptions(threads=1000).use_threads()
    with pytest.raises(InputError, match="--threads -1: expected 0 or more"):
        StoresOptions(threads=-1)
