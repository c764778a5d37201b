"""What Slurm reports about jobs, and what to conclude from the end of one.

Whether jobs are alive is taken from squeue, which, unlike sacct, needs no accounting database.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Mapping

from folds.launching.attempt import Outcome
from registry import InputError

ANSWER_S = 20.0
"""Seconds within which the controller must answer."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    "TIMEOUT",
}
"""States of jobs that will not run again; all others are alive."""
ONE_COMMAND_S = 5
"""Jobs cancelled within this many seconds may be due to one command: `scancel --user` sends a request for each."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What squeue reports about a job."""

    state: str
    ended: int = 0
    """Seconds since 1970; 0 while it is pending or running."""

    @property
    def alive(self) -> bool:
        return self.state not in ENDED


GONE = Job("gone")
"""Slurm forgets jobs some minutes after their end, but a pending part of an array as soon as it is cancelled."""


def own_job_id() -> str:
    """The id of the job in which this process runs, as printed by squeue: `12_3` for an array task."""
    array, part = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{part}" if array and part else os.environ.get("SLURM_JOB_ID", "")


def ask(*arguments: str) -> str:
    """The output of a Slurm command. Raises InputError if it fails, or takes longer than `ANSWER_S`."""
    seconds_since_1970 = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=ANSWER_S, check=False, env=seconds_since_1970
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"--on slurm: {arguments[0]} did not answer within {ANSWER_S:g} s: is the cluster up?"
        ) from None
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise InputError(f"--on slurm: {arguments[0]} failed ({reason}): is the cluster up?")
    return done.stdout


def list_jobs() -> dict[str, Job]:
    """This user's jobs, by id, including those that ended recently. Raises InputError as `ask` does."""
    lines = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %e", f"--user={os.getuid()}")
    rows = [line.split() for line in lines.splitlines() if line.strip()]
    return {job: Job(state, int(end) if end.isdecimal() else 0) for job, state, end in rows}


def judge_end(job: str, jobs: Mapping[str, Job], began: bool, cancelled_before: bool) -> Outcome:
    """The outcome of a job that is gone although its run is unfinished: hopeless if no other should be submitted.

    `began` tells whether its process has ever run, and `cancelled_before` whether an earlier job of the run ended in
    state CANCELLED. Slurm (22.05) does not distinguish between `scancel JOB` and `scancel --signal=KILL JOB`: in both
    cases the processes get SIGTERM and then SIGKILL, and the records are the same, exit code included. So a running job
    that is cancelled alone counts as killed, once.
    """
    own = jobs.get(job, GONE)
    if own.state in ("CANCELLED", "gone") and not began:
        how = "before it began"
    elif own.state != "CANCELLED":
        ended = "is gone" if own == GONE else f"ended in state {own.state}"
        return Outcome("failed", f"its Slurm job {job} {ended}")
    elif cancelled_before:
        how = "again"
    elif any(other != job and _cancelled_together(own, jobs[other]) for other in jobs):
        how = "together with others"
    else:
        return Outcome("failed", f"its Slurm job {job} was killed or cancelled; to end the run, cancel the next job")
    return Outcome("failed", f"its Slurm job {job} was cancelled {how}: launch again to continue", hopeless=True)


def _cancelled_together(own: Job, other: Job) -> bool:
    """Whether one command may have cancelled both jobs; the other may still be completing."""
    return other.state in ("CANCELLED", "COMPLETING") and abs(other.ended - own.ended) <= ONE_COMMAND_S
