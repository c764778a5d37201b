"""What the Slurm executor makes of squeue's answers and the runs' folders; `tests/slurm` runs a real Slurm."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from folds.launching import slurm_jobs
from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.executor import LaunchSettings
from folds.launching.executors import slurm
from folds.launching.executors.slurm import SlurmExecutor, SlurmOptions
from folds.launching.options import LaunchOptions
from folds.launching.search import SearchWorker, WorkerFolder
from folds.launching.slurm_jobs import Job, judge_end
from folds.launching.tasks import Task, make_tasks
from folds.store.attempts import read_attempts, record_attempt
from registry import InputError


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A Slurm of which only squeue's answers exist: the states of jobs by id."""
    states: dict[str, str] = {}

    def ask(*arguments: str) -> str:
        lines = [f"{job} {state} {1000 if state in slurm_jobs.ENDED else 'NONE'}\n" for job, state in states.items()]
        if arguments[0] == "scancel":
            del states[arguments[1]]
        return "".join(lines) if arguments[0] == "squeue" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(slurm_jobs, "ask", ask)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return states


@pytest.fixture
def task(tiny: Path, tmp_path: Path) -> Task:
    options = LaunchOptions(data=tiny, models="lstm_small", fold_count=2, folds="0")
    (task,) = make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), [])
    return task


def executor_with(task: Task, monkeypatch: pytest.MonkeyPatch) -> SlurmExecutor:
    """An executor that has submitted the task as job 7_0."""
    executor = SlurmExecutor(LaunchSettings(task.folder.path.parents[1], 0, 3, 1), SlurmOptions())
    monkeypatch.setattr(executor, "_submitted", lambda tasks: ["7_0"] * len(tasks))
    executor.submit([task])
    return executor


def finish(task: Task) -> None:
    """Have the files of a finished run, which are empty here."""
    task.folder.config.touch()
    for split in ("oof", "dev", "test"):
        task.folder.predictions(split).touch()


def test_a_job_is_alive_until_squeue_says_otherwise(squeue, task, monkeypatch):
    executor = executor_with(task, monkeypatch)
    assert [(attempt.event, attempt.job) for attempt in read_attempts(task.folder.attempts)] == [("submitted", "7_0")]
    for state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
        squeue["7_0"] = state
        assert executor.ended() == []
    finish(task)
    squeue["7_0"] = "COMPLETED"
    assert executor.ended() == [(task, Outcome("finished"))] and executor.ended() == []


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "COMPLETED"])
@pytest.mark.parametrize("began", [False, True])
def test_a_job_that_its_owner_did_not_cancel_is_tried_again(state, began):
    outcome = judge_end("7_0", {"7_0": Job(state, 1000), "7_1": Job("CANCELLED", 1000)}, began, cancelled_before=True)
    assert outcome == Outcome("failed", f"its Slurm job 7_0 ended in state {state}")


@pytest.mark.parametrize(
    ("jobs", "began", "before", "reason", "hopeless"),
    [
        # scancel --signal=KILL 7_0, and scancel 7_0, which Slurm treats alike
        ({"7_0": Job("CANCELLED", 1000), "7_1": Job("RUNNING")}, True, False, "was killed or cancelled", False),
        ({"7_0": Job("CANCELLED", 1000), "5": Job("CANCELLED", 900)}, True, False, "was killed or cancelled", False),
        ({"7_0": Job("CANCELLED", 1000), "7_1": Job("COMPLETED", 1000)}, True, False, "was killed or cancelled", False),
        ({"7_0": Job("CANCELLED", 1000)}, True, True, "was cancelled again", True),
        # scancel 7, where 7_1 takes longer to end, and 7_2 and those after it were waiting
        ({"7_0": Job("CANCELLED", 1000), "7_1": Job("COMPLETING", 1001)}, True, False, "together with others", True),
        ({"7_0": Job("CANCELLED", 1000), "7": Job("CANCELLED", 1000)}, True, False, "together with others", True),
        ({"7": Job("CANCELLED", 1000)}, False, False, "was cancelled before it began", True),
        ({"7_0": Job("CANCELLED", 1000)}, False, False, "was cancelled before it began", True),
        ({}, False, False, "was cancelled before it began", True),
        ({}, True, False, "is gone", False),  # a controller that forgets ended jobs early
    ],
)
def test_a_cancelled_job(jobs, began, before, reason, hopeless):
    outcome = judge_end("7_0", jobs, began, cancelled_before=before)
    assert (outcome.state, outcome.hopeless) == ("failed", hopeless) and reason in outcome.reason


def test_a_cancelled_job_is_submitted_anew_once(squeue, task, monkeypatch):
    """Whatever its process has recorded in the seconds before SIGKILL."""
    monkeypatch.setattr(slurm, "GRACE_S", -1.0)
    executor = executor_with(task, monkeypatch)
    for hopeless in (False, True):
        record_attempt(task.folder.attempts, "stopped", "slurm", "7_0")
        squeue["7_0"] = "CANCELLED"
        ((ended, outcome),) = executor.ended()
        assert ended == task and outcome.hopeless == hopeless
        last = read_attempts(task.folder.attempts)[-1]
        assert (last.event, last.reason, last.hopeless) == ("failed", outcome.reason, hopeless)
        executor.submit([task])


def test_the_list_of_jobs(monkeypatch):
    """Lines of squeue 22.05; the waiting part of a cancelled array is listed under the array's own number."""
    answer = "12 CANCELLED 1795851388\n12_0 COMPLETING 1795851389\n12_1 RUNNING NONE\n13 PENDING N/A\n"
    monkeypatch.setattr(slurm_jobs, "ask", lambda *arguments: answer)
    assert slurm_jobs.list_jobs() == {
        "12": Job("CANCELLED", 1795851388),
        "12_0": Job("COMPLETING", 1795851389),
        "12_1": Job("RUNNING"),
        "13": Job("PENDING"),
    }


def test_a_failed_run_tells_its_own_reason(squeue, task, monkeypatch):
    executor = executor_with(task, monkeypatch)
    record_attempt(task.folder.attempts, "failed", "slurm", "7_0", "no such option", hopeless=True)
    squeue["7_0"] = "COMPLETED"
    assert executor.ended() == [(task, Outcome("failed", "no such option", True))]


def test_a_trained_run_whose_upload_failed_is_not_finished(squeue, task, monkeypatch):
    executor = executor_with(task, monkeypatch)
    finish(task)
    record_attempt(task.folder.attempts, "failed", "slurm", "7_0", "s3://bucket: no answer")
    squeue["7_0"] = "COMPLETED"
    assert executor.ended() == [(task, Outcome("failed", "s3://bucket: no answer"))]


@pytest.mark.parametrize("refused", ["sbatch", "squeue"])
def test_a_refused_resubmission_is_a_failed_attempt_that_is_repeated(squeue, task, monkeypatch, refused):
    executor = executor_with(task, monkeypatch)
    record_attempt(task.folder.attempts, "failed", "slurm", "7_0", "CUDA error")
    squeue["7_0"] = "FAILED"
    assert executor.ended() == [(task, Outcome("failed", "CUDA error"))]

    def refuse(*arguments: object) -> None:
        raise InputError(f"{refused}: above the limit on jobs")

    with monkeypatch.context() as patch:
        patch.setattr(*((executor, "_submitted") if refused == "sbatch" else (slurm, "list_jobs")), refuse)
        executor.submit([task])
    assert read_attempts(task.folder.attempts)[-1].reason == f"{refused}: above the limit on jobs"
    assert executor.ended() == []  # not yet
    monkeypatch.setattr(slurm, "RESUBMIT_S", 0.0)
    assert executor.ended() == [(task, Outcome("failed", f"{refused}: above the limit on jobs"))]
    assert executor.ended() == []


def test_a_refused_first_submission_ends_the_launch(squeue, task, monkeypatch):
    executor = SlurmExecutor(LaunchSettings(task.folder.path.parents[1], 0, 3, 1), SlurmOptions())

    def refuse(tasks: object) -> None:
        raise InputError("--on slurm: sbatch refused the jobs (invalid account)")

    monkeypatch.setattr(executor, "_submitted", refuse)
    with pytest.raises(InputError, match="invalid account"):
        executor.submit([task])
    assert read_attempts(task.folder.attempts) == []


def test_a_requeued_job_is_waited_for(squeue, task, monkeypatch):
    executor = executor_with(task, monkeypatch)
    squeue["7_0"] = "NODE_FAIL"
    assert executor.ended() == []
    squeue["7_0"] = "PENDING"
    assert executor.ended() == [] and not executor._gone_since


def test_jobs_of_a_launcher_that_was_left_are_taken_over(squeue, task, monkeypatch):
    executor_with(task, monkeypatch)
    squeue["7_0"] = "PENDING"
    second = executor_with(task, monkeypatch)
    assert len(read_attempts(task.folder.attempts)) == 1 and second.ended() == []
    squeue["7_0"] = "FAILED"
    executor_with(task, monkeypatch)
    assert len(read_attempts(task.folder.attempts)) == 2


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_jobs_with_other_options_are_not_taken_over(squeue, task, monkeypatch, state):
    """Except those of versions that did not record them; and none is submitted before all are looked at."""
    executor_with(task, monkeypatch)
    squeue["7_0"] = state
    other = dataclasses.replace(task, arguments=(*task.arguments, "--epochs=3"))
    message = (
        "lstm_small fold 0: Slurm job 7_0 was submitted with different options: scancel 7_0 first, or use the same "
        "options"
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        executor_with(other, monkeypatch)
    assert len(read_attempts(task.folder.attempts)) == 1
    squeue["7_0"] = "CANCELLED"
    executor_with(other, monkeypatch)
    assert len(read_attempts(task.folder.attempts)) == 2
    record_attempt(task.folder.attempts, "submitted", "slurm", "6_0")  # as earlier versions do
    squeue["6_0"] = state
    assert executor_with(other, monkeypatch).ended() == [] and len(read_attempts(task.folder.attempts)) == 3


def test_a_waiting_job_whose_work_is_done_is_cancelled(squeue, task, monkeypatch):
    """Other processes may have done it. One that runs ends itself, and one that uploads its run has to begin."""
    executor = executor_with(task, monkeypatch)
    uploading = dataclasses.replace(task, url="s3://bucket/runs")
    finish(task)
    for state, url in (("RUNNING", ""), ("PENDING", "s3://bucket/runs")):
        squeue["7_0"] = state
        assert executor_with(uploading if url else task, monkeypatch).ended() == []
    squeue["7_0"] = "PENDING"
    assert executor.ended() == [(task, Outcome("finished"))] and squeue == {} and executor.ended() == []


def test_a_worker_of_a_finished_study_needs_no_process(tmp_path):
    worker = SearchWorker(WorkerFolder(tmp_path / "workers" / "slurm-0"), "cpu", ())
    assert not worker.needs_no_process
    (tmp_path / "finished").touch()
    assert worker.needs_no_process


def test_a_search_takes_over_its_jobs_with_another_number_of_them(squeue, tmp_path, monkeypatch):
    for jobs in ("--jobs=2", "--jobs=4"):
        worker: Any = SearchWorker(WorkerFolder(tmp_path / "workers" / "slurm-0"), "cpu", (jobs,))
        assert executor_with(worker, monkeypatch).ended() == []
        squeue["7_0"] = "PENDING"
    assert [attempt.event for attempt in read_attempts(worker.folder.attempts)] == ["submitted"]


def test_time_limits():
    times = {"5": 5, "30": 30, "0:05:59": 5, "8:00:00": 480, "1-00:30:00": 1470}
    assert {time: SlurmOptions(time=time).minutes for time in times} == times
    for time in ("1:30", "x", "", "0", "4"):
        with pytest.raises(InputError, match=f"^--time {time}: expected"):
            _ = SlurmOptions(time=time).minutes


def test_a_controller_that_does_not_answer(monkeypatch):
    def late(*arguments, **options):
        raise subprocess.TimeoutExpired(arguments[0], options["timeout"])

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(InputError, match="^--on slurm: sinfo did not answer within 20 s: is the cluster up\\?$"):
        slurm_jobs.ask("sinfo")
