"""The owner of a Ray cluster's tasks, with no cluster: remote functions end when a test says so."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from sleeping_task import SleepingTask

import registry
from folds.launching.attempt import Outcome
from folds.launching.executor import LaunchSettings
from folds.launching.executors import ray
from folds.store.attempts import read_attempts
from registry import InputError

FINISHED = Outcome("finished")


class Cluster:
    """Stands in for the module `ray`: what has been started, and a future for how each start ends."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self._ends: dict[Any, asyncio.Future[Outcome]] = {}

    def remote(self, function: Callable[..., Any]) -> Any:
        assert function is ray.train

        def start(task: Any) -> asyncio.Future[Outcome]:
            self.started.append(task)
            self._ends[task] = asyncio.get_running_loop().create_future()
            return self._ends[task]

        return types.SimpleNamespace(options=lambda **resources: types.SimpleNamespace(remote=start))

    async def end(self, task: Any, how: Outcome | Exception = FINISHED) -> None:
        if isinstance(how, Exception):
            self._ends[task].set_exception(how)
        else:
            self._ends[task].set_result(how)
        await settle()


async def settle() -> None:
    """Let every coroutine go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", cluster := Cluster())
    return cluster


def test_no_more_runs_at_once_than_jobs(cluster):
    async def scenario() -> None:
        owner = ray.Owner()
        await owner.join("a", 2, {})
        await owner.submit("a", ["x", "y", "z"])
        await settle()
        assert cluster.started == ["x", "y"]
        await cluster.end("y")
        assert cluster.started == ["x", "y", "z"] and await owner.ended("a") == [("y", FINISHED)]
        assert await owner.ended("a") == []

    asyncio.run(scenario())


def test_without_jobs_all_start_at_once(cluster):
    async def scenario() -> None:
        owner = ray.Owner()
        await owner.join("a", 0, {})
        await owner.submit("a", list(range(100)))
        await settle()
        assert cluster.started == list(range(100))

    asyncio.run(scenario())


def test_two_launchers_hear_of_their_own_tasks_and_the_first_to_end_leaves_the_owner_to_the_other(cluster):
    async def scenario() -> None:
        owner = ray.Owner()
        for launcher, tasks in [("a", ["x", "both"]), ("b", ["y", "both"])]:
            await owner.join(launcher, 0, {})
            await owner.submit(launcher, tasks)
        await settle()
        assert cluster.started == ["x", "both", "y"]  # none twice
        for task in ("x", "both"):
            await cluster.end(task)
        assert await owner.ended("a") == [("x", FINISHED), ("both", FINISHED)]
        assert not await owner.leave("a")
        assert await owner.ended("b") == [("both", FINISHED)] and await owner.tasks() == ["y"]
        await cluster.end("y")
        assert await owner.ended("b") == [("y", FINISHED)]
        assert await owner.leave("b")

    asyncio.run(scenario())


def test_runs_go_on_without_their_launcher_and_the_next_one_follows_them(cluster):
    async def scenario() -> None:
        owner = ray.Owner()
        await owner.join("a", 1, {})
        await owner.submit("a", ["x", "y"])
        await settle()
        assert not await owner.leave("a")
        await cluster.end("x")
        assert cluster.started == ["x", "y"]
        await owner.join("b", 1, {})
        await owner.submit("b", ["y"])
        await cluster.end("y", ValueError("node died\nsomewhere"))
        ((task, outcome),) = await owner.ended("b")
        assert task == "y" and outcome.state == "failed" and "node died" in outcome.reason
        await owner.submit("b", ["y"])  # another attempt
        await settle()
        assert cluster.started == ["x", "y", "y"]

    asyncio.run(scenario())


def test_a_launcher_that_has_died_does_not_keep_the_owner(cluster, monkeypatch):
    async def scenario() -> None:
        owner = ray.Owner()
        for launcher in ("died", "a"):
            await owner.join(launcher, 0, {})
        monkeypatch.setattr(ray, "SILENT_S", 0.0)
        assert await owner.leave("a")

    asyncio.run(scenario())


def test_a_launcher_that_still_asks_keeps_the_owner(cluster, monkeypatch):
    """Its next attempts, and what it has not been told yet, are the owner's."""
    now = time.monotonic()
    monkeypatch.setattr(ray, "time", types.SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        owner = ray.Owner()
        for launcher in ("a", "b"):
            await owner.join(launcher, 0, {})
        now += ray.SILENT_S + 1
        await owner.ended("b")
        assert not await owner.leave("a")
        now += ray.SILENT_S + 1
        await owner.join("c", 0, {})
        assert await owner.leave("c")

    asyncio.run(scenario())


class RayError(Exception):
    """Stands in for `ray.exceptions.RayError`."""


@pytest.mark.parametrize("error", [RayError, ConnectionError])
def test_a_cluster_that_goes_away_during_a_launch(error, tmp_path, monkeypatch):
    """It ends the launch in one line, and closing the executor adds nothing to that."""
    gone = False

    def get(answer: Any, timeout: float | None = None) -> Any:
        if gone:
            raise error("the head node has died\nits log")
        return answer

    answers = {"join": None, "tasks": [], "submit": None, "ended": [], "leave": True}
    owner = types.SimpleNamespace(
        **{name: types.SimpleNamespace(remote=lambda *_, answer=answer: answer) for name, answer in answers.items()}
    )
    exceptions = types.SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=get, exceptions=exceptions))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ray, "connect", lambda address: None)
    monkeypatch.setattr(ray, "find_owner", lambda runs: owner)
    executor = ray.RayExecutor(LaunchSettings(tmp_path, 0, 3, 1), ray.RayOptions())
    executor.submit([])
    assert executor.ended() == []
    gone = True
    message = (
        r"^--on ray: the cluster no longer answers \([^\n]*the head node has died[^\n]*\): started runs keep their "
        "checkpoints; start the cluster again and repeat the command$"
    )
    for ask in (executor.ended, lambda: executor.submit([])):
        with pytest.raises(InputError, match=message):
            ask()
    assert executor.interrupt().startswith("the runs continue on Ray")


@pytest.mark.parametrize("last", [True, False])
def test_what_a_launcher_asks_of_the_owner(last, tmp_path, monkeypatch):
    """Tasks that are under way are not recorded as submitted again, and the last launcher ends the owner."""
    asked: list[tuple[Any, ...]] = []
    killed: list[object] = []
    under_way, new = tasks = [SleepingTask.create(tmp_path / name, 0.0) for name in ("under_way", "new")]
    answers = {"tasks": [under_way], "leave": last}

    class FakeOwner:
        def __getattr__(self, method: str) -> Any:
            return types.SimpleNamespace(remote=lambda *more: asked.append((method, *more)) or answers.get(method))

    exceptions = types.SimpleNamespace(RayError=RayError)
    owner = FakeOwner()
    module = types.SimpleNamespace(get=lambda answer, timeout: answer, kill=killed.append, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ray, "connect", lambda address: None)
    monkeypatch.setattr(ray, "find_owner", lambda runs: owner)
    options = ray.RayOptions(gpus=0, cpus=3, memory=1.5)
    executor = ray.RayExecutor(LaunchSettings(tmp_path, 2, 5, 2), options)
    executor.submit(tasks)
    executor.close()
    resources = {"num_cpus": 3, "num_gpus": 0, "max_retries": 5, "memory": 1_500_000_000}
    name = asked[0][1]
    assert asked == [("join", name, 2, resources), ("tasks",), ("submit", name, tasks), ("leave", name)]
    assert [row.event for row in read_attempts(new.folder.attempts)] == ["submitted"]
    assert read_attempts(under_way.folder.attempts) == [] and killed == [owner] * last
    ray.RayExecutor(LaunchSettings(tmp_path, 0, 5, 2), ray.RayOptions())
    assert asked[-1][2:] == (0, {"num_cpus": 4, "num_gpus": 1, "max_retries": 5})


def test_workers_read_the_data_and_the_cache_that_the_launcher_reads(monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", "/cache")
    monkeypatch.delenv("HW3P2_DATA", raising=False)
    monkeypatch.setattr(registry, "__file__", "/code/registry/__init__.py")
    assert ray.worker_environment() == {"env_vars": {"PYTHONPATH": "/code", "HW3P2_CACHE": "/cache"}}
    monkeypatch.setattr(registry, "__file__", "/lib/python3.12/site-packages/registry/__init__.py")
    assert ray.worker_environment() == {"env_vars": {"HW3P2_CACHE": "/cache"}}
