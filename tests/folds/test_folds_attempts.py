"""Attempts at a task, and the process of one: how it ended, what it gets, how it is stopped, and when it waits."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from sleeping_task import SleepFolder, SleepingTask

from folds.launching import worker
from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.executor import LaunchSettings
from folds.launching.executors import local
from folds.launching.worker import BUSY, RETRY_S
from folds.store.attempts import read_attempts
from folds.store.lease import Held
from folds.store.remote import RemoteStore
from folds.store.run_folder import RunFolder
from registry import InputError
from registry.errors import INTERNAL_ERROR


@dataclasses.dataclass(frozen=True)
class ShellTask(SleepingTask):
    """Runs a shell script."""

    script: str = ""

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        return ["sh", "-c", self.script]


def shell_task(folder: Path, script: str) -> ShellTask:
    folder.mkdir(exist_ok=True)
    return ShellTask(SleepFolder(folder), 0.0, script=script)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("", Outcome("failed", "exit status 0")),  # though the run is not finished
        ("echo some; echo last; exit 1", Outcome("failed", "last")),
        ("exit 1", Outcome("failed", "exit status 1")),
        ("echo error: no such file; echo more; exit 2", Outcome("failed", "no such file", hopeless=True)),
        ("exit 2", Outcome("failed", "exit status 2", hopeless=True)),
        (f"echo internal error: KeyError; echo more; exit {INTERNAL_ERROR}", Outcome("failed", "KeyError")),
        (f"echo x is busy; exit {BUSY}", Outcome("busy", "x is busy")),
        (f"exit {BUSY}", Outcome("busy", "another process is training it")),
        ("exit 130", Outcome("stopped", "stopped by SIGINT")),
        ("exit 143", Outcome("stopped", "stopped by SIGTERM")),
        ("kill -TERM $$", Outcome("stopped", "stopped by SIGTERM")),
        ("kill -USR1 $$", Outcome("failed", "killed by SIGUSR1")),
        ("kill -KILL $$", Outcome("failed", "killed by SIGKILL, as the system does when memory runs out")),
    ],
)
def test_how_an_attempt_ended(script, outcome, tmp_path):
    """Whatever an earlier attempt has left in the log."""
    (tmp_path / "log.txt").write_text("error: of yesterday\ninternal error: of yesterday\n")
    task = shell_task(tmp_path, script)
    assert RunningAttempt(task, "slurm", job="7_0").wait() == outcome
    first, last = read_attempts(task.folder.attempts)
    assert (first.event, first.executor, first.job) == ("started", "slurm", "7_0")
    recorded = (last.event, last.executor, last.job, last.reason, last.hopeless)
    assert recorded == (outcome.state, "slurm", "7_0", outcome.reason, outcome.hopeless)


def test_a_process_has_the_variables_of_its_share(tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", "/cache")
    task = shell_task(tmp_path, "echo $CUDA_VISIBLE_DEVICES $HW3P2_CACHE; exit 1")
    attempt = RunningAttempt(task, "local", environment={"CUDA_VISIBLE_DEVICES": "5"})
    assert attempt.wait() == Outcome("failed", "5 /cache")


def test_a_process_gets_each_signal_once_and_none_from_the_terminal(tmp_path, monkeypatch):
    """A second one would end it without a checkpoint."""
    attempt = RunningAttempt(shell_task(tmp_path, "exec sleep 60"), "local")
    assert os.getpgid(attempt.pid) == attempt.pid != os.getpgid(0)
    sent: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(attempt._process, "send_signal", sent.append)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            attempt.stop(number)
    assert sent == [signal.SIGTERM, signal.SIGKILL]
    os.kill(attempt.pid, signal.SIGKILL)
    attempt.wait()


def test_a_process_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "STOP_S", 0.1)
    task = shell_task(tmp_path, f"trap '' TERM; touch '{tmp_path}/ready'; exec sleep 300")
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 1, 3, 1))
    executor.submit([task])
    while not (tmp_path / "ready").exists():
        assert executor.ended() == []
        time.sleep(0.01)
    executor.interrupt()
    assert read_attempts(task.folder.attempts)[-1].reason.startswith("killed by SIGKILL")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can signal the death of a parent process")
def test_a_worker_is_stopped_when_its_launcher_is_killed():
    """Otherwise it would go on with nobody knowing of it. Slurm's warning, SIGUSR2, is not for it."""
    read, write = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        try:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, lambda *_: os.write(write, b"stopped") and os._exit(0))
                worker.prepare_signals()
                os.kill(os.getpid(), signal.SIGUSR2)
                os.write(write, b"ready")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 10) == b"ready"
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert os.read(read, 10) == b"stopped"
    os.close(read)


def test_a_worker_waits_for_another_process_as_long_as_it_is_told(monkeypatch, capsys):
    held = Held("gru fold 0 is being worked on")
    answers: list[int | Held] = [held, held, 0]
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    def work() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Held):
            raise answer
        return answer

    assert worker.when_free(work, RETRY_S / 2) == BUSY and not slept
    assert capsys.readouterr().err == "gru fold 0 is being worked on\n"
    assert worker.when_free(work, 4 * RETRY_S) == 0 and slept == [RETRY_S] and not answers


@pytest.mark.parametrize(("trained", "uploads"), [(0, 1), (143, 0)])
def test_only_a_trained_run_is_uploaded(trained, uploads, monkeypatch):
    calls: list[object] = []
    monkeypatch.setattr(worker, "prepare_signals", lambda: None)
    monkeypatch.setattr("folds.train.main", lambda arguments: calls.append(arguments) or trained)
    monkeypatch.setattr(worker, "upload", lambda *arguments: calls.append(arguments) or 1)
    monkeypatch.setattr("sys.argv", ["worker", "0.0", "s3://bucket/runs", "--fold", "1"])
    assert worker.main() == (trained or 1)
    assert calls == [["--fold", "1", "--resume"], *uploads * [("s3://bucket/runs", ["--fold", "1"])]]


def test_a_refused_upload_is_worth_another_attempt(tmp_path, monkeypatch, capsys):
    uploaded: list[RunFolder] = []

    def refuse(store: RemoteStore, folder: RunFolder) -> None:
        uploaded.append(folder)
        raise InputError("s3://bucket: no answer")

    monkeypatch.setattr(RemoteStore, "upload", refuse)
    arguments = ["--model", "lstm_small", "--fold", "1", "--seed", "2", "--runs", str(tmp_path)]
    assert worker.upload(f"file://{tmp_path}/store", arguments) == 1
    assert capsys.readouterr().err == "error: s3://bucket: no answer\n"
    assert [folder.path for folder in uploaded] == [tmp_path / "lstm_small.seed2" / "fold1"]
