"""How the Ray executor reaches a cluster, its owner and its workers, with a stand-in for the module `ray`."""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sleeping_task import SleepingTask

import registry
from folds.launching.attempt import Outcome
from folds.launching.executor import LaunchSettings
from folds.launching.executors import ray
from registry import InputError

ENVIRONMENT = {"env_vars": {"PYTHONPATH": "/code"}}


class RayError(Exception):
    """Stands in for `ray.exceptions.RayError`."""


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for `ray.init`: its arguments. An exception that is put into the list is raised by the next call."""
    calls: list[Any] = []

    def init(address: str | None = None, **options: Any) -> None:
        error = calls.pop() if calls and isinstance(calls[-1], Exception) else None
        calls.append((address, options))
        if error is not None:
            raise error

    exceptions = types.SimpleNamespace(RayError=RayError)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init, exceptions=exceptions))
    monkeypatch.setattr(ray, "worker_environment", lambda: ENVIRONMENT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    return calls


@pytest.fixture
def serve() -> Iterator[Callable[[bytes | None], str]]:
    """`serve(answer)` is the address of a server that answers each greeting so; None is silence, empty hangs up."""
    stop, servers = threading.Event(), []

    def accept(server: socket.socket, answer: bytes | None) -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                if answer is None:
                    stop.wait()
                elif connection.recv(100).startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0"):
                    connection.sendall(answer)

    def start(answer: bytes | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=accept, args=(server, answer), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    stop.set()
    for server, thread in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(timeout=10)


def test_the_address_is_the_option_s_else_the_variable_s_else_this_machine_s_cluster(init, serve, monkeypatch):
    ray.connect("")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    ray.connect("")
    monkeypatch.setenv("RAY_ADDRESS", variable := serve(b"settings"))
    ray.connect("")
    ray.connect("auto")
    ray.connect(client := f"ray://{serve(b'settings')}")
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": ENVIRONMENT}
    assert init == [(address, options) for address in ("auto", "auto", variable, "auto", client)]


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:x", "head:65536", "ray://head", "local"])
def test_an_address_without_host_or_port_is_refused(init, address):
    message = f"^--address {address}: expected host:port, such as 10.0.0.1:6379$"
    with pytest.raises(InputError, match=message):
        ray.connect(address)
    assert init == []


def test_a_server_that_is_no_ray_is_refused_before_ray_tries_for_minutes(init, serve, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    silent = serve(None)
    for address, found in [(nobody, "refused"), (serve(b""), "not a server of Ray"), (silent, "timed out")]:
        monkeypatch.setattr(ray, "CONNECT_S", 0.2 if address == silent else 30.0)
        with pytest.raises(InputError, match=rf"^--address {address}: no answer \(.*{found}\): is the cluster up\?$"):
            ray.connect(address)
    assert init == []
    # A server with TLS is silent until its client has said hello.
    monkeypatch.setenv("RAY_USE_TLS", "1")
    ray.connect(silent)
    assert [address for address, _ in init] == [silent]


@pytest.mark.parametrize("error", [RayError, ConnectionError, RuntimeError, ValueError, TimeoutError])
def test_a_cluster_that_ray_cannot_connect_to_is_one_line(init, error):
    init.append(error("version mismatch\n" + "x" * 400))
    message = rf"^--on ray: no cluster at auto \({error.__name__}: version mismatch x+\): start one, or pass --address$"
    with pytest.raises(InputError, match=message) as raised:
        ray.connect("")
    assert len(str(raised.value)) < 400


def test_the_owner_outlives_its_launcher_on_the_head_node(monkeypatch):
    options: list[dict[str, Any]] = []

    def remote(actor: type[Any]) -> Any:
        assert actor is ray.Owner
        handle = types.SimpleNamespace(remote=lambda: "the handle")
        return types.SimpleNamespace(options=lambda **given: options.append(given) or handle)

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(remote=remote))
    assert ray.find_owner(Path("/runs")) == "the handle"
    names = {"name": "hw3p2 /runs", "namespace": "hw3p2", "lifetime": "detached", "get_if_exists": True}
    assert options == [{**names, "num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}]


def test_a_task_of_ray_is_an_attempt_that_waits_for_the_lease_of_one_whose_node_died(tmp_path, monkeypatch):
    context = types.SimpleNamespace(get_task_id=lambda: "0123456789abcdef" + "f" * 32)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get_runtime_context=lambda: context))
    calls: list[Any] = []
    attempt = types.SimpleNamespace(wait=lambda: Outcome("busy", "by another"))
    monkeypatch.setattr(ray, "RunningAttempt", lambda *args, **options: calls.append((args, options)) or attempt)
    task = SleepingTask.create(tmp_path / "run", 0.0)
    assert ray.train(task) == Outcome("busy", "by another")
    context.get_task_id = lambda: None
    ray.train(task)
    wait_s = ray.EXPIRY_S + 60
    assert calls == [((task, "ray"), {"job": job, "wait_s": wait_s}) for job in ("0123456789abcdef", "")]


def test_without_ray_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--on ray: Ray is not installed: pip install 'hw3p2-ensemble\[ray\]'$"):
        ray.RayExecutor(LaunchSettings(tmp_path, 0, 3, 1), ray.RayOptions())


def test_workers_read_the_data_and_the_cache_that_the_launcher_reads(monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", "/cache")
    monkeypatch.delenv("HW3P2_DATA", raising=False)
    monkeypatch.setattr(registry, "__file__", "/code/registry/__init__.py")
    assert ray.worker_environment() == {"env_vars": {"PYTHONPATH": "/code", "HW3P2_CACHE": "/cache"}}
    monkeypatch.setattr(registry, "__file__", "/lib/python3.12/site-packages/registry/__init__.py")
    assert ray.worker_environment() == {"env_vars": {"HW3P2_CACHE": "/cache"}}
