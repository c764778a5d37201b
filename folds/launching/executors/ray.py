"""Tasks of a Ray cluster. The runs folder must be on a disk that all nodes share, or a URL.

The tasks belong to an actor on the head node, not to this process, so they go on when the launcher is left. Ray repeats
a task whose worker or node has died; the run is then continued from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import registry
from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.executor import EXECUTORS, LaunchSettings, Resources
from folds.launching.executor_task import ExecutorTask
from folds.store.attempts import record_attempt
from folds.store.lease import EXPIRY_S
from registry import InputError
from registry.errors import one_line

CONNECT_S = 10.0
"""Seconds in which the cluster's head must accept a connection."""
ADDRESS_VARIABLE = "RAY_ADDRESS"
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface and the empty SETTINGS frame (RFC 9113, 3.4) that servers of gRPC, such as Ray's, answer at once."""


@dataclasses.dataclass(frozen=True)
class RayOptions(Resources):
    """What each run asks of Ray."""

    address: str = ""
    """The head, such as 10.0.0.1:6379; by default RAY_ADDRESS, else the cluster that runs on this machine."""


def train(task: ExecutorTask) -> Outcome:
    """What a Ray task does."""
    import ray

    job = ray.get_runtime_context().get_task_id() or ""
    return RunningAttempt(task, "ray", job=job[:16], wait_s=EXPIRY_S + 60).wait()


class Owner:
    """The actor that owns a launch's tasks, until a launcher has seen the last of them end."""

    def __init__(self, resources: dict[str, Any]) -> None:
        import ray

        self._train = ray.remote(train).options(**resources)
        self._running: dict[Any, ExecutorTask] = {}

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        """Start tasks."""
        for task in tasks:
            self._running[self._train.remote(task)] = task

    def tasks(self) -> list[ExecutorTask]:
        """Those that have not been reported by `ended`."""
        return list(self._running.values())

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        """The tasks that have ended since the last call."""
        import ray

        done = []
        if self._running:
            ready, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
            for reference in ready:
                task = self._running.pop(reference)
                try:
                    done.append((task, ray.get(reference)))
                except Exception as error:  # noqa: BLE001 - whatever ended the task, the others go on
                    done.append((task, Outcome("failed", one_line(error)[:500])))
        return done


class RayExecutor:
    """Hands tasks to the actor of the runs folder, an earlier launcher's if that is still there."""

    poll_s = 2.0

    def __init__(self, settings: LaunchSettings, options: RayOptions) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InputError("--on ray: Ray is not installed: pip install 'hw3p2-ensemble[ray]'")
        connect(options.address)
        self._owner = self._find_owner(settings, options)

    def _find_owner(self, settings: LaunchSettings, options: RayOptions) -> Any:
        import ray

        memory = {"memory": round(options.memory * 1e9)} if options.memory else {}
        resources = {
            "num_cpus": options.cpus,
            "num_gpus": options.gpus,
            "max_retries": settings.retries,
            **memory,
        }
        actor = ray.remote(Owner).options(
            name=f"hw3p2 {settings.runs}",
            namespace="hw3p2",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            # On the head: the death of a worker's node must not take the tasks' owner with it.
            resources={"node:__internal_head__": 0.001},
        )
        return actor.remote(resources)

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        import ray

        known = set(ray.get(self._owner.tasks.remote()))
        new = [task for task in tasks if task not in known]
        for task in new:
            record_attempt(task.folder.attempts, "submitted", "ray")
        ray.get(self._owner.submit.remote(new))

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        import ray

        return ray.get(self._owner.ended.remote())

    def close(self) -> None:
        import ray

        ray.kill(self._owner)

    def interrupt(self) -> str:
        return "left the runs to Ray: --status shows them, the same command follows them"


def connect(option: str) -> None:
    """Connect to the cluster. Raises InputError if there is none, or if it does not answer soon."""
    import ray

    address = option or os.environ.get(ADDRESS_VARIABLE, "") or "auto"
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=worker_environment())
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = one_line(error)[:300]
        raise InputError(f"--on ray: no cluster at {address} ({reason}): start one, or pass --address") from None


def _check_reachable(address: str) -> None:
    """Raise InputError unless Ray listens there: its client would try for minutes."""
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
    """The environment of workers: they import this code, from where this process imports it."""
    root = str(Path(registry.__file__).parents[1])
    variables = {name: os.environ[name] for name in ("HW3P2_CACHE", "HW3P2_DATA") if name in os.environ}
    installed = "site-packages" in root
    return {"env_vars": variables if installed else {"PYTHONPATH": root, **variables}}


@EXECUTORS.register("ray", options=RayOptions)
def ray_cluster(settings: LaunchSettings, options: RayOptions) -> RayExecutor:
    """Tasks of a Ray cluster; the runs folder must be on a disk that all nodes share, or a URL."""
    return RayExecutor(settings, options)
