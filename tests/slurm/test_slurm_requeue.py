"""Jobs that Slurm ends and requeues, at their time limit or for a job of higher priority; and a search on Slurm."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from slurm_jobs import job_of, wait_for

from folds import train
from folds.launching.status import read_status
from folds.store.attempts import read_attempts
from folds.store.lease import holder_of
from folds.store.run_folder import RunFolder
from folds.tuning.study import StudyPaths

SMALL = ["--channels", "16", "16", "--strides", "2", "1", "--hidden", "24", "--layers", "1"]
OPTIONS = [*SMALL, "--threads", "1", "--batch-frames", "400", "--lr", "0.01", "--epochs", "8", "--device", "cpu"]
ON_SLURM = ["--on", "slurm", "--gpus", "0", "--cpus", "1", "--time", "30", "--partition", "test"]

pytestmark = [
    pytest.mark.skipif("HW3P2_TEST_SLURM" not in os.environ, reason="takes minutes: make test-slurm runs it"),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm: apt-get install slurm-wlm munge"),
]


def events(folder: RunFolder) -> list[str]:
    return [attempt.event for attempt in read_attempts(folder.attempts)]


def freeze(folder: RunFolder) -> int:
    """Suspend the process that trains a run once an epoch is measured, so that it cannot end first; its pid."""
    wait_for(f"{folder.title} in training", lambda: holder_of(folder.path) and read_status(folder).epoch >= 1)
    holder = holder_of(folder.path)
    assert holder is not None
    os.kill(holder.pid, signal.SIGSTOP)
    return holder.pid


def restarts(job: str) -> int:
    """How often Slurm has requeued a job."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"Restarts=(\d+)", shown)))


def set_time_limit(job: str, minutes: int) -> bool:
    command = ["scontrol", "update", f"jobid={job}", f"timelimit={minutes}"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_a_time_limit_and_pre_emption_change_no_metrics(cluster, tiny, tmp_path):
    common = ["--data", str(tiny), *OPTIONS]
    alone, runs = tmp_path / "alone", tmp_path / "runs"
    train.main(["--runs", str(alone), "--model", "lstm_small", "--fold", "all", "--folds", "2", *common])
    late, preempted = (RunFolder(runs / "lstm_small" / f"fold{fold}") for fold in (0, 1))
    launch = [sys.executable, "-m", "folds.launch", "--runs", str(runs), "--models", "lstm_small", "--fold-count", "2"]
    with subprocess.Popen([*launch, *common, *ON_SLURM]) as launcher:
        try:
            suspended = [freeze(late), freeze(preempted)]
            jobs = [job_of(late), job_of(preempted)]
            assert set_time_limit(jobs[0], 1)
            # Slurm wakes the process before it sends the warning.
            wait_for("the state is saved before the time limit", lambda: "stopped" in events(late))
            wait_for("the limit is as it was", lambda: set_time_limit(jobs[0], 30))
            print(f"job {jobs[0]} saved its state before its time limit", flush=True)
            urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 2"]
            subprocess.run(urgent, check=True)
            wait_for("pre-emption", lambda: restarts(jobs[1]) > 0)
            print(f"job {jobs[1]} gave way to an urgent one", flush=True)
            assert launcher.wait(timeout=1200) == 0
        finally:
            launcher.kill()
            for pid in suspended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    for folder, job in zip((late, preempted), jobs, strict=True):
        print(folder.title, events(folder), f"{restarts(job)} restarts of job {job}", flush=True)
        assert events(folder).count("started") >= 2 and events(folder)[-1] == "finished" and restarts(job) >= 1
        assert events(folder).count("submitted") == 1  # it was requeued, not submitted anew
        assert "resumed after step" in folder.log.read_text()
        assert folder.metrics.read_text() == (alone / folder.name / "metrics.jsonl").read_text()


SEARCH = ["--model", "lstm_small", "--trials", "4", "--minutes", "0.1", "--space", "hidden=8:24", "lr=0.002:0.03"]
SEARCH += ["--fix", "channels=[16,16]", "strides=[2,1]", "layers=1", "batch_frames=400", "speed=0"]


def test_a_search_survives_a_killed_job_and_a_launcher_that_is_left(cluster, tiny, tmp_path):
    paths = StudyPaths(tmp_path / "tune.journal")
    tune = [sys.executable, "-m", "folds.tune", "--data", str(tiny), "--study", str(paths.journal)]
    command = [*tune, *SEARCH, *ON_SLURM, "--jobs", "2"]
    workers = [RunFolder(paths.folder / "workers" / f"slurm-{number}") for number in range(2)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        wait_for("a trial has begun", lambda: list(paths.folder.glob("stage*/*/fold*/config.json")))
        worker = next(folder for folder in workers if holder_of(folder.path))
        subprocess.run(["scancel", "--signal=KILL", job_of(worker)], check=True)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=300)
    assert first.returncode == 130 and "the jobs continue in Slurm" in errors
    started = time.monotonic()
    assert subprocess.run(command, check=False, timeout=1200).returncode == 0
    print(f"followed for {time.monotonic() - started:.0f} s:", *(events(folder) for folder in workers), flush=True)
    assert events(worker).count("started") >= 2 and events(worker)[-1] == "finished"
    assert paths.best.exists() and paths.finished.exists()
    assert not list(paths.folder.glob("trials/*"))
