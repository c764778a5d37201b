"""Job arrays of a Slurm cluster, submitted by submitit. The runs folder must be on a disk that all nodes share.

Before its time limit, a job stops its run with a checkpoint and is requeued; after pre-emption or the death of its
node, Slurm requeues it. A job that is gone while its run is unfinished is submitted again, unless its owner cancelled
it (`folds.launching.slurm_jobs.judge_end`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.executor import LaunchSettings, Resources, register_executor
from folds.launching.executor_task import ExecutorTask
from folds.launching.slurm_jobs import GONE, Job, ask, judge_end, list_jobs, own_job_id
from folds.store.attempts import read_attempts, record_attempt
from folds.store.lease import EXPIRY_S
from registry import InputError
from registry.errors import one_line

LEAST_MINUTES = 5
SAVE_S = 120
"""Seconds before the time limit at which a job saves its state."""
MAX_TIMEOUTS = 1000
"""Maximum number of requeues: a run may need many times a job's time limit."""
GRACE_S = 30.0
"""Seconds to wait for a job that is gone to be requeued, and for its files to appear on another machine."""
RESUBMIT_S = 120.0
"""Seconds before a refused submission is retried."""


@dataclasses.dataclass(frozen=True)
class SlurmOptions(Resources):
    """What each job requests from Slurm."""

    partition: str | None = None
    """Partition; by default the cluster's default."""
    time: str = "12:00:00"
    """Time limit of a job, hours:minutes:seconds or minutes. A run that takes longer is requeued and continued."""
    account: str | None = None
    """Account to charge, if the cluster requires one."""

    @property
    def minutes(self) -> int:
        """The time limit. Raises InputError for anything but a time."""
        match = re.fullmatch(r"(?:(?:(\d{1,3})-)?(\d{1,4}):)?(\d{1,6})(?::(\d{1,2}))?", self.time)
        if self.time.count(":") == 1 or match is None:
            raise InputError(f"--time {self.time}: expected hours:minutes:seconds, or minutes")
        days, hours, minutes, _ = (int(part or 0) for part in match.groups())
        if (total := 1440 * days + 60 * hours + minutes) < LEAST_MINUTES:
            why = f"of which the last {SAVE_S // 60} are for saving"
            raise InputError(f"--time {self.time}: expected {LEAST_MINUTES} minutes or more, {why}")
        return total


class TrainingJob:
    """What a job runs. submitit calls `checkpoint` before the time limit, and runs what it returns in the next job."""

    def __init__(self, task: ExecutorTask) -> None:
        self._task = task

    def __call__(self) -> str:
        self._attempt = RunningAttempt(self._task, "slurm", job=own_job_id(), wait_s=EXPIRY_S + SAVE_S)
        outcome = self._attempt.wait()
        if outcome.state == "stopped":
            # Preempted: Slurm is about to end and requeue this job, which must not seem complete.
            time.sleep(GRACE_S)
        return outcome.state

    def checkpoint(self) -> Any:
        """End the run with its state saved."""
        from submitit.helpers import DelayedSubmission

        self._attempt.stop()
        self._attempt.wait()
        return DelayedSubmission(TrainingJob(self._task))


class SlurmExecutor:
    """Submits arrays, and watches squeue and the runs' folders."""

    poll_s = 5.0

    def __init__(self, settings: LaunchSettings, options: SlurmOptions) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise InputError("--on slurm: submitit is not installed: pip install 'hw3p2-ensemble[slurm]'")
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise InputError("--on slurm: no sbatch and squeue here: run it on a login node of the cluster")
        ask("sinfo", "--noheader")
        self._options, self._jobs = options, settings.jobs
        self._folder = settings.runs / ".slurm"
        self._alive: dict[ExecutorTask, str] = {}
        self._gone_since: dict[ExecutorTask, float] = {}
        self._refused: dict[ExecutorTask, tuple[float, Outcome]] = {}
        self._has_submitted = False
        self._cancelled: set[ExecutorTask] = set()

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        try:
            self._take_over_or_submit(tasks)
        except InputError as refusal:
            if not self._has_submitted:
                raise
            # A limit on jobs, or the controller does not answer: count a failed attempt, and let other runs continue.
            for task in [task for task in tasks if task not in self._alive]:
                record_attempt(task.folder.attempts, "failed", "slurm", reason=str(refusal))
                self._refused[task] = time.monotonic(), Outcome("failed", str(refusal))
        self._has_submitted = True

    def _take_over_or_submit(self, tasks: Sequence[ExecutorTask]) -> None:
        # A launcher that has exited may have submitted some of them: those are taken over.
        before = {task: job for task in tasks if (job := submitted_job(task))}
        jobs = list_jobs() if before else {}
        taken_over = {task: job for task, job in before.items() if job in jobs and jobs[job].alive}
        for task, job in taken_over.items():
            _check_same_options(task, job)
        self._alive |= taken_over
        new = [task for task in tasks if task not in taken_over]
        if not new:
            return
        for task, job in zip(new, self._submitted(new), strict=True):
            record_attempt(task.folder.attempts, "submitted", "slurm", job, options=task.fingerprint)
            self._alive[task] = job

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        done = self._refused_long_ago()
        if not self._alive:
            return done
        try:
            jobs = list_jobs()
        except InputError:
            return done  # the controller does not answer for a while, but the jobs go on
        for task, job in list(self._alive.items()):
            if job in jobs and jobs[job].state == "PENDING" and task.needs_no_process:
                with contextlib.suppress(InputError):  # without scancel, the job ends as soon as it starts
                    ask("scancel", job)
                outcome: Outcome | None = Outcome("finished")
            elif job in jobs and jobs[job].alive:
                self._gone_since.pop(task, None)
                continue
            else:
                outcome = self._outcome(task, job, jobs)
            if outcome is not None:
                del self._alive[task]
                self._gone_since.pop(task, None)
                done.append((task, outcome))
        return done

    def close(self) -> None:
        """Nothing to do: its jobs have ended."""

    def interrupt(self) -> str:
        return "the jobs continue in Slurm: --status shows them, the same command follows them, scancel ends them"

    def _submitted(self, tasks: Sequence[ExecutorTask]) -> list[str]:
        """Submit an array of new jobs; returns their ids."""
        import submitit

        options = self._options
        executor = submitit.SlurmExecutor(folder=self._folder / "%j", max_num_timeout=MAX_TIMEOUTS)
        values: dict[str, Any] = {
            "job_name": "hw3p2",
            "time": options.minutes,
            "partition": options.partition,
            "account": options.account,
            "gpus_per_node": options.gpus or None,
            "cpus_per_task": options.cpus or None,
            "mem": f"{round(1024 * options.memory)}M" if options.memory else None,
            "signal_delay_s": SAVE_S,
            "array_parallelism": self._jobs or len(tasks),
            "additional_parameters": {"requeue": True},
        }
        executor.update_parameters(**{name: value for name, value in values.items() if value is not None})
        try:
            jobs = executor.submit_array([TrainingJob(task) for task in tasks])
        except (RuntimeError, subprocess.CalledProcessError) as error:
            raise InputError(f"--on slurm: sbatch refused the jobs ({one_line(error)})") from None
        return [job.job_id for job in jobs]

    def _refused_long_ago(self) -> list[tuple[ExecutorTask, Outcome]]:
        """The rejected tasks that are due for another submission."""
        due = [task for task, (refused, _) in self._refused.items() if time.monotonic() - refused >= RESUBMIT_S]
        return [(task, self._refused.pop(task)[1]) for task in due]

    def _outcome(self, task: ExecutorTask, job: str, jobs: Mapping[str, Job]) -> Outcome | None:
        """How a job that is gone ended; None while its files may still be on their way."""
        # The owner of a cancelled job may have deleted the folder of its run.
        attempts = read_attempts(task.folder.attempts)
        last = attempts[-1] if attempts else None
        # Checked before the folder: training may have finished, but the upload failed.
        if last is not None and last.job == job and last.event in ("failed", "busy"):
            return Outcome(last.event, last.reason, last.hopeless)
        if task.folder.finished:
            return Outcome("finished")
        if time.monotonic() - self._gone_since.setdefault(task, time.monotonic()) < GRACE_S:
            return None
        began = last is not None and last.event != "submitted"
        outcome = judge_end(job, jobs, began, cancelled_before=task in self._cancelled)
        if jobs.get(job, GONE).state == "CANCELLED":
            self._cancelled.add(task)
        record_attempt(task.folder.attempts, "failed", "slurm", job, outcome.reason, outcome.hopeless)
        return outcome


def submitted_job(task: ExecutorTask) -> str:
    """The Slurm job of the last attempt at a task; empty if there is none."""
    attempts = [attempt for attempt in read_attempts(task.folder.attempts) if attempt.executor == "slurm"]
    return attempts[-1].job if attempts else ""


def _check_same_options(task: ExecutorTask, job: str) -> None:
    """Raise InputError if a task's job was submitted with other options: it would be trained with those."""
    attempts = read_attempts(task.folder.attempts)
    submitted = [attempt.options for attempt in attempts if (attempt.event, attempt.job) == ("submitted", job)]
    if any(submitted) and submitted[-1] != task.fingerprint:
        raise InputError(
            f"{task.title}: Slurm job {job} was submitted with different options: scancel {job} first, or use the same "
            "options"
        )


@register_executor("slurm", options=SlurmOptions)
def slurm(settings: LaunchSettings, options: SlurmOptions) -> SlurmExecutor:
    """Job arrays of a Slurm cluster; the runs folder must be on a disk that all nodes share."""
    return SlurmExecutor(settings, options)
