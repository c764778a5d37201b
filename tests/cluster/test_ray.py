"""Two Ray nodes on this machine train eight runs, while the second node is killed: `make test-cluster`."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from folds import train
from folds.launching.status import read_status
from folds.store.attempts import read_attempts
from folds.store.lease import holder_of
from folds.store.run_folder import RunFolder

pytestmark = pytest.mark.skipif(
    "HW3P2_TEST_CLUSTER" not in os.environ, reason="needs Ray: make test-cluster installs and runs it"
)
SMALL = ["--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]
OPTIONS = [*SMALL, "--threads", "1", "--batch-frames", "400", "--lr", "0.01", "--time-mask", "4"]
OPTIONS += ["--feature-mask", "1", "--epochs", "16", "--device", "cpu"]
MEMBERS = ("gru_small", "gru_small.seed1", "lstm_small", "lstm_small.seed1")
RUNS = [f"{member}/fold{fold}" for member in MEMBERS for fold in (0, 1)]
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_node(log: Path, *options: str) -> subprocess.Popen[bytes]:
    """A node with two places for runs, once it has started; its processes descend from the one returned."""
    local = ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    with open(log, "wb") as output:
        node = subprocess.Popen([RAY, "start", *options, *local], stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 600
    while b"Ray runtime started" not in log.read_bytes():
        assert time.monotonic() < deadline and node.poll() is None, log.read_text()
        time.sleep(0.5)
    return node


def processes_of(node: subprocess.Popen[bytes]) -> list[int]:
    """The processes of a node."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    found = [node.pid]
    for pid in found:  # grows while it is read
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def stop_node(node: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all processes of a node."""
    for pid in processes_of(node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    node.wait(timeout=120)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(the address of the head, the process of the second node)."""
    ray = pytest.importorskip("ray", reason="no Ray: pip install -e '.[cluster-test]'")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other work's memory is not ours to end
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "600")  # a machine may be busy
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    head = start_node(tmp_path / "head.txt", "--head", f"--port={port}", "--include-dashboard=false")
    worker = start_node(tmp_path / "worker.txt", f"--address={address}")
    yield address, worker
    ray.shutdown()
    for node in (worker, head):
        stop_node(node, signal.SIGTERM)


def on_node(folder: RunFolder, node: subprocess.Popen[bytes]) -> bool:
    """Whether a run is in training, two epochs are measured, and its process belongs to this node."""
    holder = holder_of(folder.path)
    return holder is not None and read_status(folder).epoch >= 2 and holder.pid in processes_of(node)


def test_the_death_of_a_node_changes_no_metrics(cluster, tiny, tmp_path):
    address, worker = cluster
    for seed in ("0", "1"):
        arguments = ["--data", str(tiny), "--runs", str(tmp_path / "alone"), "--model", "gru_small,lstm_small"]
        assert train.main([*arguments, "--fold", "all", "--folds", "2", "--seed", seed, *OPTIONS]) == 0
    runs = tmp_path / "runs"
    folders = [RunFolder(runs / run) for run in RUNS]
    options = ["--models", "gru_small,lstm_small", "--seeds", "0,1", "--fold-count", "2", *OPTIONS]
    cluster_options = ["--on", "ray", "--address", address, "--gpus", "0", "--cpus", "1"]
    command = [sys.executable, "-m", "folds.launch", "--data", str(tiny), "--runs", str(runs)]
    with subprocess.Popen([*command, *options, *cluster_options]) as launcher:
        try:
            deadline = time.monotonic() + 900
            while not (there := [folder for folder in folders if on_node(folder, worker)]):
                assert time.monotonic() < deadline and launcher.poll() is None
                time.sleep(0.05)
            stop_node(worker, signal.SIGKILL)
            print(f"killed the second node, with {', '.join(folder.title for folder in there)}", flush=True)
            assert launcher.wait(timeout=1800) == 0
        finally:
            launcher.kill()
    for folder in folders:
        print(folder.title, [attempt.event for attempt in read_attempts(folder.attempts)], flush=True)
    for run in RUNS:
        assert (runs / run / "metrics.jsonl").read_text() == (tmp_path / "alone" / run / "metrics.jsonl").read_text()
    for folder in there:
        assert [attempt.event for attempt in read_attempts(folder.attempts)].count("started") >= 2
        assert "resumed after step" in folder.log.read_text()


def test_two_launchers_share_a_runs_folder_and_each_keeps_to_its_jobs(cluster, tiny, tmp_path):
    address, _ = cluster
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "folds.launch", "--data", str(tiny), "--runs", str(runs), "--fold-count", "3"]
    command += ["--on", "ray", "--address", address, "--gpus", "0", "--cpus", "1", "--jobs", "1", *OPTIONS]
    # The second one has less to do, so it is the first to end.
    work = {"gru_small": ["--epochs", "8"], "lstm_small": ["--epochs", "2", "--folds", "0,1"]}
    launchers = [subprocess.Popen([*command, "--models", model, *options]) for model, options in work.items()]
    try:
        assert [launcher.wait(timeout=900) for launcher in launchers] == [0, 0]
    finally:
        for launcher in launchers:
            launcher.kill()
    for model in work:
        attempts = [read_attempts(folder / "attempts.jsonl") for folder in sorted((runs / model).iterdir())]
        spans = sorted((rows[-2].time, rows[-1].time) for rows in attempts)
        assert all([row.event for row in rows] == ["submitted", "started", "finished"] for rows in attempts)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_an_unreachable_cluster_is_one_line_within_30_seconds(tiny, tmp_path):
    command = [sys.executable, "-m", "folds.launch", "--data", str(tiny), "--runs", str(tmp_path / "runs")]
    started = time.monotonic()
    unreachable = ["--models", "gru_small", "--on", "ray", "--address", f"127.0.0.1:{free_port()}"]
    done = subprocess.run([*command, *unreachable], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is the cluster up?" in done.stderr
    assert time.monotonic() - started < 60
