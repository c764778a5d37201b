"""The owner of a Ray cluster's tasks, with no cluster: remote functions end when a test says so."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import pytest
from sleeping_task import SleepingTask

from folds.launching.attempt import Outcome
from folds.launching.executors import ray
from folds.launching.status import read_status
from folds.store.attempts import read_attempts

FINISHED = Outcome("finished")


class RayError(Exception):
    """Stands in for `ray.exceptions.RayError`."""


class Cluster:
    """Stands in for the module `ray`: what has been started, and a future for how each start ends."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.resources: dict[Any, dict[str, Any]] = {}
        self._ends: dict[Any, asyncio.Future[Outcome]] = {}

    def remote(self, function: Callable[..., Any]) -> Any:
        assert function is ray.train

        def start(resources: dict[str, Any], task: Any) -> asyncio.Future[Outcome]:
            self.started.append(task)
            self.resources[task] = resources
            self._ends[task] = asyncio.get_running_loop().create_future()
            return self._ends[task]

        def options(**resources: Any) -> Any:
            return types.SimpleNamespace(remote=functools.partial(start, resources))

        return types.SimpleNamespace(options=options)

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


def test_a_launcher_hears_nothing_of_another_s_next_attempt(cluster):
    """It has given up the task, or follows it again if it attempts it."""

    async def scenario() -> None:
        owner = ray.Owner()
        for launcher in ("a", "b"):
            await owner.join(launcher, 0, {})
            await owner.submit(launcher, ["x"])
        await settle()
        await cluster.end("x", failed := Outcome("failed", "out of memory"))
        assert await owner.ended("a") == await owner.ended("b") == [("x", failed)]
        await owner.submit("b", ["x"])
        await settle()
        await cluster.end("x")
        assert await owner.ended("a") == [] and await owner.ended("b") == [("x", FINISHED)]

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
        await cluster.end("y")
        assert await owner.ended("b") == [("y", FINISHED)]

    asyncio.run(scenario())


class RayTaskError(RayError, FileNotFoundError):
    """As Ray raises it: an instance of the exception that the task raised, which is its `cause`; a long traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause

    def __str__(self) -> str:
        lines = ["ray::train() (pid=17)", *["  File ray.py, line 50, in train"] * 50]
        return "\n".join([*lines, f"FileNotFoundError: {self.cause}"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RayError("node died\nsomewhere"), "RayError: node died somewhere"),
        (RayTaskError(FileNotFoundError("no\npython")), "FileNotFoundError: no python"),
        (RayError("word " * 200), ("RayError: " + "word " * 200)[:500]),
    ],
)
def test_a_task_that_dies_is_a_failed_attempt_whose_reason_is_recorded(error, reason, cluster, tmp_path):
    """Its worker cannot record it. The others go on, and it can be attempted again."""
    task, other = (SleepingTask.create(tmp_path / name, 0.0) for name in ("task", "other"))

    async def scenario() -> None:
        owner = ray.Owner()
        await owner.join("a", 1, {})
        await owner.submit("a", [task, other])
        await settle()
        await cluster.end(task, error)
        assert await owner.ended("a") == [(task, Outcome("failed", reason))]
        await owner.submit("a", [task])
        await cluster.end(other)
        assert cluster.started == [task, other, task] and await owner.ended("a") == [(other, FINISHED)]

    asyncio.run(scenario())
    (attempt,) = read_attempts(task.folder.attempts)
    assert (attempt.event, attempt.executor, attempt.reason) == ("failed", "ray", reason)
    status = read_status(task.folder)
    assert (status.state, status.reason) == ("failed", reason)
    assert read_attempts(other.folder.attempts) == []


def test_a_folder_that_the_owner_cannot_write_does_not_keep_a_failure_from_the_launcher(cluster, tmp_path):
    task = SleepingTask.create(tmp_path / "task", 0.0)
    task.folder.attempts.mkdir()

    async def scenario() -> None:
        owner = ray.Owner()
        await owner.join("a", 0, {})
        await owner.submit("a", [task])
        await settle()
        await cluster.end(task, RayError("node died"))
        assert await owner.ended("a") == [(task, Outcome("failed", "RayError: node died"))]

    asyncio.run(scenario())


def test_each_launcher_s_runs_have_its_own_resources(cluster):
    async def scenario() -> None:
        owner = ray.Owner()
        for launcher in ("a", "b"):
            await owner.join(launcher, 0, {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": launcher}}})
        await owner.submit("b", ["y"])
        await owner.submit("a", ["x"])
        await settle()
        assert cluster.resources == {
            task: {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": launcher}}}
            for launcher, task in (("a", "x"), ("b", "y"))
        }

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
