"""Tasks of a Ray cluster. The runs folder must be on a disk that all nodes share, or a URL.

The tasks belong to an actor on the head node, not to this process, so they continue when the launcher exits. Ray
retries a task whose worker or node has died; the run then continues from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import registry
from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.executor import LaunchSettings, Resources, register_executor
from folds.launching.executor_task import ExecutorTask
from folds.store.attempts import record_attempt
from folds.store.lease import EXPIRY_S
from registry import InputError
from registry.errors import one_line
from registry.redaction import redact

CONNECT_S = 10.0
"""Seconds within which the cluster's head must accept a connection."""
SILENT_S = 300.0
"""A launcher asks every two seconds; one that has not asked for this many seconds counts as dead."""
ADDRESS_VARIABLE = "RAY_ADDRESS"
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface and the empty SETTINGS frame (RFC 9113, 3.4) that gRPC servers, such as Ray's, answer at once."""


@dataclasses.dataclass(frozen=True)
class RayOptions(Resources):
    """What each run requests from Ray."""

    address: str = ""
    """Address of the head node, such as 10.0.0.1:6379; by default RAY_ADDRESS, else the cluster on this machine."""

    @property
    def memory_bytes(self) -> int:
        """`memory` as Ray counts it."""
        return round(self.memory * 1e9)


def train(task: ExecutorTask) -> Outcome:
    """The body of a Ray task: attempt `task`."""
    import ray

    job = ray.get_runtime_context().get_task_id() or ""
    return RunningAttempt(task, "ray", job=job[:16], wait_s=EXPIRY_S + 60).wait()


@dataclasses.dataclass
class Launch:
    """What the owner knows about one launcher."""

    train: Any
    """The remote function, with the resources that each run requests."""
    places: asyncio.Semaphore
    """Limits how many of its runs are under way at the same time."""
    followed: set[ExecutorTask] = dataclasses.field(default_factory=set)
    ended: list[tuple[ExecutorTask, Outcome]] = dataclasses.field(default_factory=list)
    """Not yet reported to the launcher."""
    last_call: float = dataclasses.field(default_factory=time.monotonic)


class Owner:
    """The actor that owns the tasks of all launchers of a runs folder; they continue when a launcher exits.

    How a task ended is reported to every launcher that follows it.
    """

    def __init__(self) -> None:
        self._launches: dict[str, Launch] = {}
        self._under_way: dict[ExecutorTask, asyncio.Task[None]] = {}

    async def join(self, launcher: str, jobs: int, resources: dict[str, Any]) -> None:
        """Register a launcher under a unique name; `jobs` limits its runs at the same time, 0 for no limit."""
        import ray

        function = ray.remote(train).options(**resources)
        self._launches[launcher] = Launch(function, asyncio.Semaphore(jobs or sys.maxsize))

    async def tasks(self) -> list[ExecutorTask]:
        """The tasks that are under way."""
        return list(self._under_way)

    async def submit(self, launcher: str, tasks: Sequence[ExecutorTask]) -> None:
        """Follow tasks, and start those that are not in progress."""
        launch = self._launches[launcher]
        launch.followed.update(tasks)
        for task in tasks:
            if task not in self._under_way:
                self._under_way[task] = asyncio.create_task(self._attend(launch, task))

    async def ended(self, launcher: str) -> list[tuple[ExecutorTask, Outcome]]:
        """The tasks followed by `launcher` that have ended since its last call."""
        launch = self._launches[launcher]
        launch.last_call = time.monotonic()
        ended, launch.ended = launch.ended, []
        return ended

    async def leave(self, launcher: str) -> bool:
        """Unregister a launcher; returns True if no tasks and no other launchers are left."""
        del self._launches[launcher]
        silent_since = time.monotonic() - SILENT_S
        return not self._under_way and all(launch.last_call < silent_since for launch in self._launches.values())

    async def _attend(self, launch: Launch, task: ExecutorTask) -> None:
        async with launch.places:
            try:
                outcome = await launch.train.remote(task)
            except Exception as error:  # noqa: BLE001 - whatever ended the task, the others continue
                outcome = Outcome("failed", _reason(error))
                with contextlib.suppress(OSError):  # what the status shows; its worker could not record it
                    record_attempt(task.folder.attempts, "failed", "ray", reason=outcome.reason)
        del self._under_way[task]
        for follower in self._launches.values():
            if task in follower.followed:
                follower.followed.remove(task)
                follower.ended.append((task, outcome))


def _reason(error: Exception) -> str:
    """Why a task failed, in one line: the exception that it raised itself, which comes last in Ray's traceback."""
    cause = getattr(error, "cause", None)
    return redact(one_line(cause if isinstance(cause, Exception) else error)[:500])


class RayExecutor:
    """Passes tasks to the actor of the runs folder, which is shared with other launchers."""

    poll_s = 2.0

    def __init__(self, settings: LaunchSettings, options: RayOptions) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InputError("--on ray: Ray is not installed: pip install 'hw3p2-ensemble[ray]'")
        connect(options.address)
        self._name = uuid.uuid4().hex
        self._owner = find_owner(settings.runs)
        warn_unless_a_node_has(options)
        memory = {"memory": options.memory_bytes} if options.memory else {}
        resources = {
            "num_cpus": options.cpus,
            "num_gpus": options.gpus,
            "max_retries": settings.retries,
            # Otherwise they would get the environment of the launcher that created the owner.
            "runtime_env": worker_environment(),
            **memory,
        }
        self._ask("join", self._name, settings.jobs, resources)

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        known = set(self._ask("tasks"))
        for task in tasks:
            if task not in known:
                record_attempt(task.folder.attempts, "submitted", "ray")
        self._ask("submit", self._name, tasks)

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        return self._ask("ended", self._name)

    def close(self) -> None:
        import ray

        # An owner that is gone, or too busy to respond, must not make a finished launch fail.
        with contextlib.suppress(InputError, ray.exceptions.RayError):
            if self._ask("leave", self._name, timeout=CONNECT_S):
                ray.kill(self._owner)

    def interrupt(self) -> str:
        self.close()
        return "the runs continue on Ray: --status shows them, and the same command follows them again"

    def _ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a method of the owner. Raises InputError if the cluster is gone."""
        import ray

        try:
            return ray.get(getattr(self._owner, method).remote(*arguments), timeout=timeout)
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise InputError(
                f"--on ray: the cluster no longer answers ({one_line(error)[:300]}): started runs keep their "
                "checkpoints; start the cluster again and repeat the command"
            ) from None


def find_owner(runs: Path) -> Any:
    """The actor of a runs folder, which is created if there is none."""
    import ray

    actor = ray.remote(Owner).options(
        name=f"hw3p2 {runs}",
        namespace="hw3p2",
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        # On the head node: the tasks' owner must survive the death of a worker node.
        resources={"node:__internal_head__": 0.001},
    )
    return actor.remote()


def connect(option: str) -> None:
    """Connect to the cluster. Raises InputError if there is none, or if it does not respond soon."""
    import ray

    address = option or os.environ.get(ADDRESS_VARIABLE, "") or "auto"
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=worker_environment())
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = one_line(error)[:300]
        raise InputError(f"--on ray: no cluster at {address} ({reason}): start one, or pass --address") from None


def warn_unless_a_node_has(options: RayOptions) -> None:
    """Print a warning if no node is large enough for a run. No error: a cluster may start larger nodes on demand."""
    import ray

    needs = {"CPU": options.cpus, "GPU": options.gpus, "memory": options.memory_bytes}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
        memory = f" --memory {options.memory:g}" if options.memory else ""
        print(
            f"warning: --on ray: no node of the cluster has --cpus {options.cpus} --gpus {options.gpus}{memory}: runs "
            f"wait until one joins; {'--gpus 0 trains on CPUs' if options.gpus else 'request less'}",
            file=sys.stderr,
            flush=True,
        )


def _check_reachable(address: str) -> None:
    """Raise InputError unless Ray listens there: its client would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65_536):
        raise InputError(f"--address {address}: expected host:port, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "1":
                connection.sendall(HTTP2_GREETING)
                if not connection.recv(1):
                    raise ConnectionError("not a server of Ray")
    except OSError as error:
        raise InputError(f"--address {address}: no answer ({error}): is the cluster up?") from None


def worker_environment() -> dict[str, Any]:
    """The environment of workers, which import this code from the same place as this process."""
    root = str(Path(registry.__file__).parents[1])
    variables = {name: os.environ[name] for name in ("HW3P2_CACHE", "HW3P2_DATA") if name in os.environ}
    installed = "site-packages" in root
    return {"env_vars": variables if installed else {"PYTHONPATH": root, **variables}}


@register_executor("ray", options=RayOptions)
def ray_cluster(settings: LaunchSettings, options: RayOptions) -> RayExecutor:
    """Tasks of a Ray cluster; the runs folder must be on a disk that all nodes share, or a URL."""
    return RayExecutor(settings, options)
