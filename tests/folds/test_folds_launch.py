"""Many runs at once: local processes, of which one is killed; attempts, statuses; and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import time

import pytest
from launches import LAUNCH, FakeExecutor, start, tasks_of
from training_runs import metrics, run

from folds.launching import worker
from folds.launching.attempt import Outcome, RunningAttempt
from folds.launching.destination import Destination
from folds.launching.executors import ray
from folds.launching.launcher import Launcher
from folds.launching.search import SearchWorker, WorkerFolder
from folds.launching.status import known_runs, read_status
from folds.store.attempts import read_attempts, record_attempt
from folds.store.lease import hold, holder_of
from folds.store.run_folder import RunFolder
from folds.training.memory import MemoryRanOut
from registry import InputError
from registry.errors import MachineFault


def kill_during(folder: RunFolder, epochs: int) -> threading.Thread:
    """Send SIGKILL to the process that trains `folder` once so many epochs are measured, from another thread."""

    def watch() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            holder = holder_of(folder.path)
            if holder is not None and folder.metrics.exists() and metrics(folder.path).count("\n") >= epochs:
                os.kill(holder.pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_four_runs_of_which_one_is_killed_end_as_undisturbed_ones(
    tiny, undisturbed, preloaded, tmp_path, monkeypatch, capsys
):
    epochs = ["--epochs", "6"]
    run(monkeypatch, tiny, tmp_path / "alone", *epochs, "--fold", "1")
    run(monkeypatch, tiny, tmp_path / "alone", *epochs, "--fold", "all", "--seed", "1")
    (tmp_path / "alone" / "lstm_small" / "fold0").symlink_to(undisturbed)
    folder = RunFolder(tmp_path / "runs" / "lstm_small" / "fold0")
    thread = kill_during(folder, epochs=2)
    assert start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, *epochs, "--seeds", "0,1", "--jobs", "2") == 0
    thread.join()
    events = [attempt.event for attempt in read_attempts(folder.attempts)]
    assert events == ["started", "failed", "started", "finished"]
    assert "resumed after step" in folder.log.read_text()
    for name in ("lstm_small", "lstm_small.seed1"):
        for fold in ("fold0", "fold1"):
            assert metrics(tmp_path / "runs" / name / fold) == metrics(tmp_path / "alone" / name / fold)
    out = capsys.readouterr().out
    assert "4 finished" in out and f"next: python -m ensemble.blend --runs {tmp_path / 'runs'} --data {tiny}\n" in out
    # Everything is finished: nothing is started again, and the status is the runs' own.
    assert start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, *epochs, "--seeds", "0,1") == 0
    assert [attempt.event for attempt in read_attempts(folder.attempts)] == events
    assert start(monkeypatch, tiny, tmp_path / "runs", "--status") == 0
    assert "lstm_small fold 0        finished  6/6" in capsys.readouterr().out


def test_a_failed_run_tells_its_reason_and_log_and_stops_no_other(tiny, tmp_path, monkeypatch, capsys):
    """A folder in the place of a file of one run: it cannot begin, and the other one is trained."""
    folder = tmp_path / "lstm_small" / "fold0"
    (folder / "summary.json").mkdir(parents=True)
    assert start(monkeypatch, tiny, tmp_path, *LAUNCH, "--epochs", "2", "--jobs", "1") == 1
    out = capsys.readouterr().out
    log = folder / "log.txt"
    assert f"lstm_small fold 0 failed: {folder / 'summary.json'}: Is a directory" in out
    assert f"log: {log}" in out and "error: " in log.read_text() and "1 failed, 1 finished" in out
    assert [attempt.event for attempt in read_attempts(log.with_name("attempts.jsonl"))] == ["started", "failed"]


def test_attempts_end_after_retries_or_when_hopeless(tiny, tmp_path):
    failed, hopeless = Outcome("failed", "killed"), Outcome("failed", "no such option", hopeless=True)
    executor = FakeExecutor(
        {"lstm_small fold 0": [failed, Outcome("stopped"), failed], "lstm_small fold 1": [hopeless, failed]}
    )
    first, second = tasks_of(tiny, tmp_path)
    launcher = Launcher(executor, retries=3, destination=Destination(tmp_path))
    assert launcher.run([first, second]) == {first: failed, second: hopeless}
    assert executor.submitted.count(first.title) == 3 and executor.submitted.count(second.title) == 1


def test_a_run_that_another_process_trains_is_not_attempted_before_it_ends(tiny, tmp_path, monkeypatch):
    """Neither at the start nor after an attempt that found it busy."""
    first, second = tasks_of(tiny, tmp_path)
    failed = Outcome("failed", "", hopeless=True)
    executor = FakeExecutor({first.title: [failed], second.title: [Outcome("busy"), failed]})
    submitted_while_held: list[str] = []
    launcher = Launcher(executor, retries=3, destination=Destination(tmp_path))
    with hold(first.folder.path, "test"):
        thread = threading.Thread(target=launcher.run, args=([first, second],))
        monkeypatch.setattr("folds.launching.launcher.REFRESH_S", 0.0)
        thread.start()
        time.sleep(0.5)
        submitted_while_held += executor.submitted
        assert read_status(first.folder).state == "training"
    thread.join(timeout=20)
    assert submitted_while_held == [second.title, second.title] and executor.submitted[2:] == [first.title]


@pytest.mark.parametrize("exists", [True, False])
def test_paths_are_relative_to_the_launchers_folder_wherever_a_run_is_started(exists, tiny, tmp_path, monkeypatch):
    """Unless the machine does not have that folder."""
    monkeypatch.chdir(tmp_path)
    first, _ = tasks_of(tiny, tmp_path / "runs")
    search = SearchWorker(WorkerFolder(tmp_path / "workers" / "ray-0"), "cpu", ())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for task in (first, search):
        assert hash(task) == hash(again := dataclasses.replace(task, working_folder=os.getcwd())) and task == again
        moved = task if exists else dataclasses.replace(task, working_folder=str(tmp_path / "gone"))
        show = [sys.executable, "-c", "import os; print('error:', os.getcwd()); raise SystemExit(2)"]
        monkeypatch.setattr(type(task), "command", lambda *_, show=show: show)
        expected = tmp_path if exists else tmp_path / "elsewhere"
        assert RunningAttempt(moved, "ray").wait() == Outcome("failed", str(expected), hopeless=True)


def test_ctrl_c_stops_so_that_the_same_command_continues(tiny, tmp_path, monkeypatch, capsys):
    folder = RunFolder(tmp_path / "lstm_small" / "fold0")

    def interrupt() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not folder.checkpoints:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert start(monkeypatch, tiny, tmp_path, *LAUNCH, "--folds", "0", "--epochs", "5000") == 130
    assert "the state is saved: continue with the same command" in capsys.readouterr().err
    assert holder_of(folder.path) is None and read_status(folder).state == "stopped"
    assert [attempt.event for attempt in read_attempts(folder.attempts)] == ["started", "stopped"]


def test_statuses(tmp_path):
    """What each state looks like in a folder."""
    folder = RunFolder(tmp_path / "gru" / "fold0")
    assert read_status(folder).state == "waiting"
    record_attempt(folder.attempts, "submitted", "slurm", job="7_3")
    assert (read_status(folder).state, read_status(folder).place) == ("queued", "slurm job 7_3")
    record_attempt(folder.attempts, "started", "slurm", job="7_3")
    folder.config.write_text(json.dumps({"options": {"recipe": {"epochs": 10, "minutes": None}}}))
    with hold(folder.path, "test"):
        folder.metrics.write_text('{"epoch": 1, "held_out": 9.5}\n{"epoch": 2, "held_out": 8.25}\n')
        row = '{"wall_s": 1800, "cpu_s": 1, "frames_per_s": 1000}\n'
        folder.timing.write_text(2 * row)
        status = read_status(folder)
        assert (status.state, status.epoch, status.epochs, status.distance) == ("training", 2, 10, 8.25)
        assert status.hours_left == 4.0 and status.place.endswith(", slurm job 7_3")
        for clock, left in (("wall", 1.0), ("cpu", 2 - 2 / 3600)):
            recipe = {"epochs": 10, "minutes": 120, "clock": clock}
            folder.config.write_text(json.dumps({"options": {"recipe": recipe}}))
            assert read_status(folder).hours_left == pytest.approx(left)
    assert read_status(folder).state == "starting"
    record_attempt(folder.attempts, "stopped", "slurm", job="7_3")
    assert read_status(folder).state == "stopped"
    record_attempt(folder.attempts, "failed", "slurm", job="7_3", reason="out of memory")
    assert (read_status(folder).state, read_status(folder).reason) == ("failed", "out of memory")
    for split in ("oof", "dev", "test"):
        folder.predictions(split).touch()
    assert read_status(folder).state == "finished" and known_runs(tmp_path) == [folder]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to train: pass --models gru,lstm or --plan course-20M"),
        (["--models", "lstm_smal"], "unknown model 'lstm_smal'; did you mean"),
        (["--models", "lstm_small", "--on", "slrm"], "unknown executor 'slrm'; did you mean slurm?"),
        (["--models", "lstm_small", "--plan", "cpu"], "--models with --plan"),
        (["--models", "lstm_small", "--folds", "7"], "--fold 7: out of range, with --folds 5 it is 0 to 4"),
        (["--models", "lstm_small", "--folds", "x"], "--folds x: expected numbers separated by commas, all or none"),
        (["--models", "lstm_small", "--seeds", "-1"], "--seeds -1: expected numbers"),
        (["--models", "lstm_small", "--folds", "none"], "nothing to train: there are neither folds nor refits"),
        (["--models", "lstm_small", "--seed", "1"], "--seed: an option of folds.train; here it is --seeds"),
        (["--models", "lstm_small", "--seed=1"], "--seed: an option of folds.train; here it is --seeds"),
        (["--models", "lstm_small", "--epoch", "1"], "Unrecognized options: --epoch, 1; did you mean --epochs?"),
        (["--models", "lstm_small", "--retry", "5"], "--retry: did you mean --retries? see python -m folds.launch"),
        (["--models", "lstm_small", "--gpus", "0"], "--gpus: an option of --on ray and --on slurm; see python"),
        (["--models", "lstm_small", "--time", "9"], "--time: an option of --on slurm; see python -m folds.launch"),
        (["--models", "lstm_small", "--on", "slurm", "--partion", "x"], "--partion: did you mean --partition? see "),
        (["--models", "lstm_small", "--time-evry", "9"], "Unrecognized options: --time-evry, 9; did you mean --time-"),
        (["--models", "lstm_small,lstm_small"], "the plan has this run twice"),
        (["--plan", "course"], "--plan course: no such file, and no plan of that name: course-20M, cpu, open"),
        (["--status"], "no such runs folder"),
        (["--status", "--run", "x"], "--status: unknown options --run x; see python -m folds.launch --help"),
    ],
)
def test_bad_input(options, message, tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        start(monkeypatch, tiny, tmp_path / "runs", *options)
    assert message in str(error.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("executor", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_executor_that_is_not_installed(executor, package, tiny, tmp_path, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else original(name))
    with pytest.raises(InputError, match=f"^--on {executor}: [^\n]*not installed: pip install") as error:
        start(monkeypatch, tiny, tmp_path / "runs", "--models", "lstm_small", "--on", executor)
    assert f"hw3p2-ensemble[{executor}]" in str(error.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("listens", [False, True])
def test_a_head_of_ray_that_does_not_answer(listens, monkeypatch):
    """Neither where nothing listens, nor where a server is silent; a server of gRPC would answer the greeting."""
    monkeypatch.setattr(ray, "CONNECT_S", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"^--address {address}: no answer \([^\n]*\): is the cluster up\?$"):
            ray._check_reachable(address)


def test_a_runs_folder_that_cannot_be_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="^[^\n]*cannot be written"):
        start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH)


def test_a_gpu_by_number_is_refused(tiny, tmp_path, monkeypatch):
    message = "^--device cuda:1: each process is assigned its device: set CUDA_VISIBLE_DEVICES=1, and pass --device "
    with pytest.raises(InputError, match=message):
        start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, "--device", "cuda:1")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MemoryRanOut("batches do not fit any more"), "batches do not fit any more"),
        (MachineFault("--device cuda: not available"), "--device cuda: not available"),
        (OSError(errno.ENOSPC, "No space left", "f"), "the disk or a quota is full while writing f: no partial file "),
        (OSError(errno.ESTALE, "Stale file handle", "f"), "f: Stale file handle: check the path, the disk"),
        (OSError(errno.ESHUTDOWN, "Cannot send after transport endpoint shutdown", "f"), "f: Cannot send after "),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected", "f"), "f: Transport endpoint is not"),
        (MemoryError("8 GiB"), "not enough memory (MemoryError: 8 GiB)"),
        (RuntimeError("can't allocate memory"), "not enough memory (RuntimeError: can't allocate memory)"),
    ],
)
def test_a_fault_of_the_machine_is_worth_another_attempt(fault, message, monkeypatch, capsys):
    """Exit status 2 would be final."""

    def train(arguments):
        raise fault

    monkeypatch.setattr("folds.train.main", train)
    monkeypatch.setattr(worker, "prepare_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", "0.0", ""])
    assert worker.main() == 1 and capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("fault", [InputError("no such file"), PermissionError(errno.EACCES, "no"), ValueError("bug")])
def test_another_attempt_would_end_in_the_same_way(fault, monkeypatch):
    def work():
        raise fault

    with pytest.raises(type(fault)):
        worker.when_free(work, 0.0)
