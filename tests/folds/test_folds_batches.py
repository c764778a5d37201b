"""Batches: no utterance lost, none past the budget of frames, their order and their preparation on a thread."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import split_of

from folds.data.batches import AHEAD, Batch, SoftTargets, collate, padding_share, plan, prefetched, repeated
from folds.data.cache import load_dataset

some_lengths = st.lists(st.integers(1, 400), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(lengths=some_lengths, frames=st.integers(1, 2000), seed=st.none() | st.integers(0, 9), epoch=st.integers(0, 3))
def test_a_plan_holds_each_utterance_once_within_the_budget(lengths, frames, seed, epoch):
    lengths = np.array(lengths)
    batches = plan(lengths, frames=frames, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or lengths[batch].max() * len(batch) <= frames for batch in batches)
    again = plan(lengths, frames=frames, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_differ_and_padding_stays_small():
    lengths = np.random.default_rng(0).integers(200, 1600, 3000)
    one, two = (plan(lengths, frames=16_000, seed=0, epoch=e) for e in (1, 2))
    assert any(not np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(one, two, strict=False))
    assert padding_share(lengths, one) < 0.08 and padding_share(np.array([3, 3]), [np.array([0, 1])]) == 0
    assert padding_share(np.array([4, 2]), [np.array([0, 1])]) == pytest.approx(0.25)


def test_collate_pads_with_zeros_and_joins_targets():
    split = split_of([3, 1, 2], [7, 8, 9])
    batch = collate(split, [2, 0])
    assert batch.groups == ("9", "7")
    assert batch.lengths.tolist() == [2, 3] and batch.indices == (2, 0)
    assert batch.features[:, :, 0].tolist() == [[4, 5, 0], [0, 1, 2]]
    assert batch.targets.tolist() == [*split.labels(2).tolist(), *split.labels(0).tolist()]
    assert batch.target_lengths.tolist() == [len(split.labels(2)), len(split.labels(0))]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prefetching_keeps_the_order(count):
    split = split_of([3, 1, 2, 5, 4])
    batches = [np.array([i]) for i in range(count)]
    assert [batch.indices for batch in prefetched(partial(collate, split), batches)] == [(i,) for i in range(count)]


def test_a_batch_is_repeated_utterance_by_utterance():
    features, targets = torch.rand(2, 3, 4), torch.tensor([5, 6, 7])
    one = Batch(features, torch.tensor([3, 1]), targets, torch.tensor([2, 1]), (8, 9), groups=("a", "b"))
    both = repeated(one, 2)
    assert both.groups == ("a", "b", "a", "b")
    assert torch.equal(both.features[:2], one.features) and torch.equal(both.features[2:], one.features)
    assert both.lengths.tolist() == [3, 1, 3, 1] and both.targets.tolist() == [5, 6, 7, 5, 6, 7]
    assert both.target_lengths.tolist() == [2, 1, 2, 1] and both.indices == (8, 9, 8, 9)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_preparing_batches_on_a_thread_starts_no_second_team_of_threads():
    """A second OpenMP team on as many cores makes recurrent layers several times slower. In a row: collate, augment."""
    script = """
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
import numpy as np, torch
from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import collate
torch.set_num_threads(2)
torch.ones(1_000_000).exp()  # the main thread's team
split = SimpleNamespace(features=lambda i: np.ones((4000, 28), np.float16), tokens=None, groups=["103"] * 20)
with ThreadPoolExecutor(1) as pool:
    pool.submit(int).result()
    before = len(os.listdir("/proc/self/task"))
    batch = pool.submit(collate, split, range(20)).result()
    print(len(os.listdir("/proc/self/task")) - before)
    pool.submit(augment, batch, SpecAugment(time_every=1), 4, torch.Generator(), views=2).result()
    print(len(os.listdir("/proc/self/task")) - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == ["0", "0"]


def test_epochs_have_other_batches_in_other_orders():
    """Utterances are together with others, and batches do not go from the longest to the shortest."""
    lengths = np.random.default_rng(0).integers(200, 1600, 3000)
    one, two = (plan(lengths, frames=16_000, seed=0, epoch=epoch) for epoch in (1, 2))
    sets = [{tuple(np.sort(batch).tolist()) for batch in batches} for batches in (one, two)]
    assert len(sets[0] & sets[1]) < 0.1 * len(one)
    longest = [int(lengths[batch].max()) for batch in one]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    epochs = itertools.product(range(3), range(3))  # no seed has another one's
    assert len({plan(lengths, frames=16_000, seed=s, epoch=e)[0].tobytes() for s, e in epochs}) == 9


def test_two_batches_are_prepared_ahead(tiny):
    split, started, used = load_dataset(tiny).train, [], threading.Event()

    def prepare(index: int) -> Batch:
        started.append(index)
        if len(started) == 1 + AHEAD:
            used.set()
        return collate(split, [index])

    batches = prefetched(prepare, range(6))
    assert next(batches).indices == (0,) and used.wait(timeout=60)
    assert started == [0, 1, 2] and [batch.indices for batch in batches] == [(i,) for i in range(1, 6)]


def test_an_error_in_preparation_reaches_training():
    def prepare(index: int) -> Batch:
        raise OSError("the drive is gone")

    with pytest.raises(OSError, match="the drive is gone"):
        next(prefetched(prepare, [1]))


def test_lengths_stay_on_the_cpu(tiny):
    batch = collate(load_dataset(tiny).train, [0, 1]).to(torch.device("meta"))
    assert [it.device.type for it in (batch.features, batch.targets)] == ["meta"] * 2
    assert [it.device.type for it in (batch.lengths, batch.target_lengths)] == ["cpu"] * 2


def test_page_locked_memory_holds_the_same_batch(monkeypatch):
    """There is none without CUDA, so a copy takes its place."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    soft = SoftTargets(torch.tensor([0, 0, 1]), torch.tensor([1, 2]), torch.tensor([1, 0, 1]), torch.rand(3))
    lengths, targets, inside = torch.tensor([3, 1]), torch.tensor([5, 6, 7]), torch.ones(2, 3, 4, dtype=torch.bool)
    plain = (torch.rand(2, 3, 4), lengths, targets, torch.tensor([2, 1]), (8, 9), torch.rand(2, 3, 4), inside)
    for batch in (Batch(*plain, soft, ("a", "b")), Batch(*plain[:5])):
        pairs = [(batch, batch.pinned())]
        pairs += [(batch.soft, batch.pinned().soft)] if batch.soft else []
        for whole, pinned in pairs:
            for field in fields(whole):
                before, after = getattr(whole, field.name), getattr(pinned, field.name)
                if isinstance(before, torch.Tensor):
                    assert torch.equal(before, after) and before is not after
                elif field.name != "soft" or before is None:
                    assert before == after
