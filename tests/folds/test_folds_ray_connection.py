"""How the Ray executor reaches a cluster, and what it asks of the owner, with a stand-in for the module `ray`."""

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
from folds.store.attempts import read_attempts
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


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (ray.RayOptions(gpus=0), ""),
        (ray.RayOptions(gpus=0, cpus=8, memory=16.0), ""),
        (ray.RayOptions(gpus=1, cpus=2), ""),
        (ray.RayOptions(), "--cpus 4 --gpus 1: runs wait until one joins; --gpus 0 trains on CPUs"),
        (ray.RayOptions(gpus=0, cpus=9), "--cpus 9 --gpus 0: runs wait until one joins; request less"),
        (ray.RayOptions(0, 4, 16.1), "--cpus 4 --gpus 0 --memory 16.1: runs wait until one joins; request less"),
    ],
)
def test_runs_for_which_no_node_is_large_enough_are_announced(options, warning, monkeypatch, capsys):
    """Ray itself says so only in the log of its driver; the dead node does not count."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "memory": 16e9}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0, "memory": 4e9}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0, "memory": 512e9}},
    ]
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: nodes))
    ray.warn_unless_a_node_has(options)
    assert capsys.readouterr().err == (f"warning: --on ray: no node of the cluster has {warning}\n" if warning else "")


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
    fake = types.SimpleNamespace(get=get, exceptions=exceptions, nodes=list)
    monkeypatch.setitem(sys.modules, "ray", fake)
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
    timeouts: list[float | None] = []

    def get(answer: Any, timeout: float | None) -> Any:
        timeouts.append(timeout)
        return answer

    module = types.SimpleNamespace(get=get, kill=killed.append, exceptions=exceptions, nodes=list)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ray, "connect", lambda address: None)
    monkeypatch.setattr(ray, "find_owner", lambda runs: owner)
    monkeypatch.setattr(ray, "worker_environment", lambda: {"env_vars": {"PYTHONPATH": "/code"}})
    options = ray.RayOptions(gpus=0, cpus=3, memory=1.5)
    executor = ray.RayExecutor(LaunchSettings(tmp_path, 2, 5, 2), options)
    executor.submit(tasks)
    executor.close()
    always = {"max_retries": 5, "runtime_env": {"env_vars": {"PYTHONPATH": "/code"}}}
    resources = {"num_cpus": 3, "num_gpus": 0, "memory": 1_500_000_000, **always}
    name = asked[0][1]
    assert asked == [("join", name, 2, resources), ("tasks",), ("submit", name, tasks), ("leave", name)]
    assert timeouts == [None, None, None, ray.CONNECT_S]
    assert [row.event for row in read_attempts(new.folder.attempts)] == ["submitted"]
    assert read_attempts(under_way.folder.attempts) == [] and killed == [owner] * last
    ray.RayExecutor(LaunchSettings(tmp_path, 0, 5, 2), ray.RayOptions())
    assert asked[-1][2:] == (0, {"num_cpus": 4, "num_gpus": 1, **always})
