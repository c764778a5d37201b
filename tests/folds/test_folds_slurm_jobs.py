"""What jobs of Slurm request, what runs in them, and what becomes of them; with neither Slurm nor submitit."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sleeping_task import SleepingTask

from folds.launching import slurm_jobs
from folds.launching.attempt import Outcome
from folds.launching.executor import LaunchSettings
from folds.launching.executors import slurm
from folds.launching.executors.slurm import SAVE_S, SlurmExecutor, SlurmOptions, TrainingJob
from folds.launching.slurm_jobs import own_job_id
from folds.store.attempts import read_attempts, record_attempt
from registry import InputError


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for submitit: the parameters of each submission. Its jobs are 7_0, 7_1, and so on."""
    found: list[dict[str, Any]] = []

    class FakeSlurmExecutor:
        def __init__(self, folder: Path, max_num_timeout: int) -> None:
            assert folder.parts[-2:] == (".slurm", "%j") and max_num_timeout >= 100

        def update_parameters(self, **parameters: Any) -> None:
            found.append(parameters)

        def submit_array(self, jobs: list[TrainingJob]) -> list[SimpleNamespace]:
            return [SimpleNamespace(job_id=f"7_{index}") for index in range(len(jobs))]

    helpers = SimpleNamespace(DelayedSubmission=lambda job: ("submitted later", job))
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(SlurmExecutor=FakeSlurmExecutor, helpers=helpers))
    monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slurm, "ask", lambda *arguments: "")
    return found


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states of jobs, by id, that squeue reports."""
    states: dict[str, str] = {}
    monkeypatch.setattr(slurm_jobs, "ask", lambda *_: "".join(f"{job} {state} 1000\n" for job, state in states.items()))
    monkeypatch.setattr(slurm, "GRACE_S", -1.0)
    return states


def submit(tmp_path: Path, jobs: int = 0, **options: Any) -> tuple[SlurmExecutor, Any, Any]:
    """An executor, and the two tasks that it has submitted."""
    tasks = [SleepingTask.create(tmp_path / name, 0.0) for name in ("first", "second")]
    executor = SlurmExecutor(LaunchSettings(tmp_path, jobs, 3, 2), SlurmOptions(**options))
    executor.submit(tasks)
    return executor, *tasks


def test_a_job_requests_what_its_options_say(requested, tmp_path):
    always = {"job_name": "hw3p2", "signal_delay_s": SAVE_S, "additional_parameters": {"requeue": True}}
    _, first, second = submit(tmp_path / "plain")
    submit(tmp_path / "other", 1, cpus=6, memory=1.5, partition="long", time="8:30:00", account="me")
    submit(tmp_path / "cpu", gpus=0)
    own = {"partition": "long", "account": "me", "mem": "1536M", "array_parallelism": 1}
    assert requested == [
        {"time": 720, "gpus_per_node": 1, "cpus_per_task": 4, "array_parallelism": 2, **always},
        {"time": 510, "gpus_per_node": 1, "cpus_per_task": 6, **own, **always},
        {"time": 720, "cpus_per_task": 4, "array_parallelism": 2, **always},
    ]
    jobs = [[(row.event, row.job) for row in read_attempts(task.folder.attempts)] for task in (first, second)]
    assert jobs == [[("submitted", "7_0")], [("submitted", "7_1")]]


def test_jobs_that_sbatch_refuses_are_one_line(requested, tmp_path, monkeypatch):
    """submitit raises a RuntimeError with sbatch's own message; no attempt is recorded."""

    def refuse(executor: object, jobs: object) -> None:
        raise RuntimeError("sbatch: error: invalid account\n(exit status 1)")

    monkeypatch.setattr(sys.modules["submitit"].SlurmExecutor, "submit_array", refuse)
    message = r"--on slurm: sbatch refused the jobs (RuntimeError: sbatch: error: invalid account (exit status 1))"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        submit(tmp_path)
    assert not (tmp_path / "first" / "attempts.jsonl").exists()


def test_a_machine_without_slurm_or_submitit_is_refused_before_anything_is_submitted(requested, tmp_path, monkeypatch):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm, "ask", lambda *arguments: asked.append(arguments) or "")
    settings = LaunchSettings(tmp_path, 0, 3, 1)
    SlurmExecutor(settings, SlurmOptions())
    assert asked == [("sinfo", "--noheader")]  # raises InputError if the controller does not answer
    for missing in ("sbatch", "squeue"):
        monkeypatch.setattr(shutil, "which", lambda name, missing=missing: None if name == missing else name)
        with pytest.raises(InputError, match="^--on slurm: no sbatch and squeue here: run it on a login node"):
            SlurmExecutor(settings, SlurmOptions())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "submitit" else object())
    with pytest.raises(InputError, match=r"^--on slurm: submitit is not installed: pip install 'hw3p2-ensemble\[slurm"):
        SlurmExecutor(settings, SlurmOptions())
    assert len(asked) == 1


def test_a_controller_that_is_silent_for_a_while_ends_no_launch(requested, squeue, tmp_path, monkeypatch):
    executor, first, _ = submit(tmp_path)
    squeue |= {"7_0": "FAILED", "7_1": "RUNNING"}

    def refuse() -> None:
        raise InputError("--on slurm: squeue failed")

    with monkeypatch.context() as patch:
        patch.setattr(slurm, "list_jobs", refuse)
        assert executor.ended() == []
    assert executor.ended() == [(first, Outcome("failed", "its Slurm job 7_0 ended in state FAILED"))]


def test_an_attempt_that_found_its_run_busy_did_not_fail(requested, squeue, tmp_path):
    """Another launcher's process may be training it."""
    executor, first, _ = submit(tmp_path)
    record_attempt(first.folder.attempts, "busy", "slurm", "7_0", "first is being worked on")
    squeue |= {"7_0": "COMPLETED", "7_1": "RUNNING"}
    assert executor.ended() == [(first, Outcome("busy", "first is being worked on"))]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_waiting_job_that_its_owner_cancels_is_not_submitted_anew(deleted, requested, squeue, tmp_path):
    """Whether or not its owner deletes the run's folder, too."""
    executor, first, _ = submit(tmp_path)
    if deleted:
        shutil.rmtree(first.folder.path)
    squeue |= {"7_0": "CANCELLED", "7_1": "PENDING"}
    reason = "its Slurm job 7_0 was cancelled before it began: launch again to continue"
    assert executor.ended() == [(first, Outcome("failed", reason, hopeless=True))]


def test_a_job_knows_the_id_that_squeue_prints(monkeypatch):
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert own_job_id() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert own_job_id() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert own_job_id() == "12_0"


@pytest.mark.parametrize(("state", "waits"), [("stopped", [-1.0]), ("failed", []), ("finished", [])])
def test_a_job_whose_run_was_stopped_waits_to_be_requeued(state, waits, requested, squeue, tmp_path, monkeypatch):
    """Before the time limit, its run is stopped with its state saved, and the next job continues it."""
    calls: list[Any] = []
    attempt = SimpleNamespace(wait=lambda: calls.append("wait") or Outcome(state), stop=lambda: calls.append("stop"))
    monkeypatch.setattr(slurm, "RunningAttempt", lambda task, executor, **options: calls.append(options) or attempt)
    monkeypatch.setattr(slurm.time, "sleep", calls.append)
    monkeypatch.setattr(slurm, "own_job_id", lambda: "7_0")
    job = TrainingJob(task := SleepingTask.create(tmp_path / "first", 0.0))
    assert job() == state and calls == [{"job": "7_0", "wait_s": slurm.EXPIRY_S + SAVE_S}, "wait", *waits]
    calls.clear()
    how, following = job.checkpoint()
    assert calls == ["stop", "wait"] and how == "submitted later" and following._task == task
