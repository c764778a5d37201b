"""A real Slurm on this machine trains eight runs, while one job is killed and one node goes down, or while their owner
cancels them: `make test-slurm`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_jobs import job_of, wait_for

from folds import train
from folds.launching.status import read_status
from folds.store.attempts import read_attempts
from folds.store.run_folder import RunFolder

SMALL = ["--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]
OPTIONS = [*SMALL, "--threads", "1", "--batch-frames", "400", "--lr", "0.01", "--time-mask", "4"]
OPTIONS += ["--feature-mask", "1", "--epochs", "16", "--device", "cpu"]
MEMBERS = ("gru_small", "gru_small.seed1", "lstm_small", "lstm_small.seed1")
RUNS = [f"{member}/fold{fold}" for member in MEMBERS for fold in (0, 1)]

pytestmark = [
    pytest.mark.skipif("HW3P2_TEST_SLURM" not in os.environ, reason="takes minutes: make test-slurm runs it"),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm: apt-get install slurm-wlm munge"),
]


def launch(data: Path, runs: Path, *more: str) -> list[str]:
    """The launch command of all eight runs."""
    options = ["--models", "gru_small,lstm_small", "--seeds", "0,1", "--fold-count", "2", *OPTIONS]
    cluster = ["--on", "slurm", "--gpus", "0", "--cpus", "1", "--time", "30"]
    return [sys.executable, "-m", "folds.launch", "--data", str(data), "--runs", str(runs), *options, *cluster, *more]


def training(folder: RunFolder) -> bool:
    """Whether a run is being trained and has measured two epochs."""
    status = read_status(folder)
    return status.state == "training" and status.epoch >= 2


def node_of(job: str) -> str:
    """The node on which a job runs; empty if it does not."""
    asked = ["squeue", "--noheader", f"--jobs={job}", "--states=running", "--format=%N"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def test_a_killed_job_and_a_lost_node_change_no_metrics(cluster, tiny, tmp_path):
    for seed in ("0", "1"):
        arguments = ["--data", str(tiny), "--runs", str(tmp_path / "alone"), "--model", "gru_small,lstm_small"]
        assert train.main([*arguments, "--fold", "all", "--folds", "2", "--seed", seed, *OPTIONS]) == 0
    runs = tmp_path / "runs"
    folders = [RunFolder(runs / run) for run in RUNS]
    with subprocess.Popen(launch(tiny, runs)) as launcher:
        try:
            killed, lost = disturb(folders)
            assert launcher.wait(timeout=1800) == 0
        finally:
            launcher.kill()
    for folder in folders:
        print(folder.title, [attempt.event for attempt in read_attempts(folder.attempts)], flush=True)
    for run in RUNS:
        assert (runs / run / "metrics.jsonl").read_text() == (tmp_path / "alone" / run / "metrics.jsonl").read_text()
    for folder in (killed, lost):
        events = [attempt.event for attempt in read_attempts(folder.attempts)]
        assert events.count("started") >= 2 and events[-1] == "finished"
        assert "resumed after step" in folder.log.read_text()


def disturb(folders: list[RunFolder]) -> tuple[RunFolder, RunFolder]:
    """Kill the job of one run, and take the node of another down and up again; the two."""
    wait_for("a run in training", lambda: any(training(folder) for folder in folders))
    killed = next(folder for folder in folders if training(folder))
    print(f"scancel --signal=KILL {job_of(killed)} ({killed.title})", flush=True)
    subprocess.run(["scancel", "--signal=KILL", job_of(killed)], check=True)

    def on_second_node() -> list[RunFolder]:
        others = [folder for folder in folders if folder != killed and training(folder)]
        return [folder for folder in others if node_of(job_of(folder)) == "n2"]

    wait_for("a run in training on node n2", on_second_node)
    (lost, *_) = on_second_node()
    print(f"node n2 down, with job {job_of(lost)} ({lost.title})", flush=True)
    subprocess.run(["scontrol", "update", "nodename=n2", "state=down", "reason=test"], check=True)
    wait_for("the job is off the node", lambda: node_of(job_of(lost)) != "n2")
    subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"], check=True)
    print("node n2 resumed", flush=True)
    return killed, lost


def test_an_array_that_its_owner_cancels_is_not_submitted_anew(cluster, tiny, tmp_path):
    """`scancel` with the array's number, while two of its runs are trained and the others wait."""
    runs = tmp_path / "runs"
    folders = [RunFolder(runs / run) for run in RUNS]
    command = launch(tiny, runs, "--jobs", "2", "--epochs", "100000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        try:
            wait_for("two runs in training", lambda: sum(map(training, folders)) == 2)
            subprocess.run(["scancel", job_of(folders[0]).partition("_")[0]], check=True)
            out, _ = launcher.communicate(timeout=300)
        finally:
            launcher.kill()
    print(out)
    assert launcher.returncode == 1 and "8 failed" in out
    reasons = [read_attempts(folder.attempts)[-1].reason for folder in folders]
    assert sum("cancelled together with others" in reason for reason in reasons) == 2
    assert sum("cancelled before it began" in reason for reason in reasons) == 6


def test_an_unreachable_cluster_is_one_line_within_30_seconds(tiny, tmp_path, monkeypatch):
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(
        "ClusterName=gone\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=9\nAuthType=auth/munge\n"
        "NodeName=n1 CPUs=1\nPartitionName=test Nodes=n1\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    started = time.monotonic()
    done = subprocess.run(launch(tiny, tmp_path / "runs"), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is the cluster up?" in done.stderr
    print(done.stderr, f"{time.monotonic() - started:.0f} s")
    assert time.monotonic() - started < 60  # half a minute for the answer, and the rest for the imports
