"""One contract for every registered executor that can run here, and what is said of a plug-in that breaks it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from launches import LAUNCH, start
from sleeping_task import SleepingTask

from folds import tune
from folds.launching.attempt import Outcome
from folds.launching.executor import (
    EXECUTORS,
    Executor,
    LaunchSettings,
    create_executor,
    is_on_this_machine,
    register_executor,
)
from folds.launching.executor_task import ExecutorTask
from folds.launching.executors import local
from folds.launching.worker import BUSY
from registry.errors import InputError, PlugInError


@dataclasses.dataclass(frozen=True)
class PlainOptions:
    """The options of the executors that tests register."""

    device: ClassVar[str] = "cpu"


@dataclasses.dataclass(frozen=True)
class WithoutDevice:
    """Options that do not say what --device follows."""

    queue: str = "short"


@dataclasses.dataclass(frozen=True)
class DeviceAsField:
    """Options whose --device is that of folds.train, too."""

    device: str = "cpu"


def bare(settings, options):
    """An executor as an entry point names it: registered without options."""


@pytest.fixture(params=EXECUTORS.names())
def executor(request, tmp_path, monkeypatch) -> Executor:
    """One that has three tasks, two at the same time; skips where it cannot be created."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    options = EXECUTORS.entry(request.param).info["options"]()
    try:
        return create_executor(request.param, LaunchSettings(tmp_path, jobs=2, retries=1, tasks=3), options)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def register(monkeypatch) -> Callable[..., None]:
    """`register(name, function, **info)` for the time of a test."""
    EXECUTORS.names()
    monkeypatch.setattr(EXECUTORS, "_entries", dict(EXECUTORS._entries))
    return lambda name, function, **info: EXECUTORS.register(name, **info)(function) and None


def wait_until(condition: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(task: SleepingTask) -> bool:
    try:
        os.kill(task.folder.pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_executor_tells_once_how_each_attempt_ended(executor, tmp_path):
    tasks = [SleepingTask.create(tmp_path / str(status), 0.2, status) for status in (0, 1, BUSY)]
    executor.submit(tasks[:2])
    executor.submit(tasks[2:])
    ended: list[tuple[ExecutorTask, str]] = []
    wait_until(lambda: ended.extend((task, how.state) for task, how in executor.ended()) or len(ended) >= len(tasks))
    time.sleep(executor.poll_s)
    assert executor.ended() == []
    assert dict(ended) == dict(zip(tasks, ("finished", "failed", "busy"), strict=True)) and len(ended) == 3
    executor.submit([again := tasks[1]])  # another attempt
    wait_until(lambda: ended.extend((task, how.state) for task, how in executor.ended()) or len(ended) == 4)
    assert ended[3] == (again, "failed")
    executor.close()


def test_an_interrupted_executor_of_this_machine_leaves_no_process(executor, request, tmp_path):
    if not is_on_this_machine(request.node.callspec.params["executor"]):
        pytest.skip("a cluster's tasks may outlive their launcher")
    running, *_ = tasks = [SleepingTask.create(tmp_path / str(index), 300) for index in range(3)]
    executor.submit(tasks)
    wait_until(lambda: running.folder.pid)
    assert isinstance(executor.interrupt(), str)
    assert not any(is_running(task) for task in tasks if task.folder.pid)
    assert executor.ended() == []
    assert not tasks[2].folder.attempts.exists()  # nor does it start the one that waited


def test_a_process_that_does_not_stop_in_time_is_killed(tmp_path, monkeypatch):
    now, sent = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 40.0

    class StubbornAttempt:
        def stop(self, number: int = signal.SIGTERM) -> None:
            sent.append((now, number))

        def poll(self) -> Outcome | None:
            return Outcome("failed") if len(sent) > 1 else None

    monkeypatch.setattr(local, "RunningAttempt", lambda *arguments, **options: StubbornAttempt())
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 1, 3, 1))
    executor.submit([SleepingTask.create(tmp_path / "task", 0.0)])
    assert executor.interrupt() == "stopped; the state is saved: continue with the same command"
    assert sent == [(0.0, signal.SIGTERM), (160.0, signal.SIGKILL)] and local.STOP_S == 120.0


@pytest.mark.parametrize(
    ("info", "found"),
    [({}, "None"), ({"options": WithoutDevice}, "WithoutDevice"), ({"options": DeviceAsField}, "DeviceAsField")],
)
def test_a_plug_in_without_proper_options_is_named(register, info, found, tiny, tmp_path, monkeypatch):
    register("bare", bare, **info)
    message = rf"^executor 'bare' \(.*test_folds_executors.py:\d+\): TypeError: registered with options={found}; "
    for parse in (
        lambda: start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, "--on", "bare"),
        lambda: tune.parse(["--on", "bare"]),
    ):
        with pytest.raises(PlugInError, match=message):
            parse()
    with pytest.raises(TypeError, match="expected @register_executor"):
        register_executor("bare", info.get("options"))


def test_a_plug_in_that_makes_no_executor_is_named(register, tiny, tmp_path, monkeypatch):
    register("bare", bare, options=PlainOptions)
    with pytest.raises(PlugInError, match=r"^executor 'bare' \(.*\): TypeError: made a NoneType; expected an object"):
        start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, "--on", "bare")


def test_where_an_executor_s_tasks_run_is_stated_when_it_is_registered(register, tiny, tmp_path, monkeypatch, capsys):
    assert [name for name in ("local", "ray", "slurm") if is_on_this_machine(name)] == ["local"]
    register("elsewhere", bare, options=PlainOptions)
    register("here", bare, options=PlainOptions, on_this_machine=True)
    for name, hours_are_known in (("elsewhere", False), ("here", True)):
        start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, "--on", name, "--dry-run")
        assert ("unknown" not in capsys.readouterr().out) is hours_are_known


@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, ["0", "1"]), ("2, 5", ["2", "5"]), ("GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b"])]
)
def test_gpus_that_were_chosen_for_the_launcher_are_divided(visible, gpus, tmp_path, monkeypatch):
    """A process on a GPU chooses its threads itself. One task on a GPU is enough for the GPUs to be divided."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    started: list[tuple[int | None, str]] = []

    def start_attempt(task, executor, *, threads, environment):
        started.append((threads, environment["CUDA_VISIBLE_DEVICES"]))

    monkeypatch.setattr(local, "RunningAttempt", start_attempt)
    on_cpu, on_gpu = SleepingTask.create(tmp_path / "cpu", 0.0), SleepingTask.create(tmp_path / "gpu", 0.0)
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 0, 3, 4))
    executor.submit([on_cpu, dataclasses.replace(on_gpu, device="cuda"), on_gpu])
    assert started == [(None, gpu) for gpu in gpus]


@pytest.mark.parametrize(("quota", "threads"), [(8.0, 2), (4.9, 1)])
def test_cores_that_the_launcher_may_use_are_divided(quota, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "physical_cores", lambda: 8)
    monkeypatch.setattr(local, "cpu_quota", lambda: quota)
    started: list[int | None] = []
    monkeypatch.setattr(local, "RunningAttempt", lambda task, executor, **options: started.append(options["threads"]))
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 4, 3, 9))
    executor.submit([SleepingTask.create(tmp_path / str(number), 0.0) for number in range(9)])
    assert started == [threads] * 4
