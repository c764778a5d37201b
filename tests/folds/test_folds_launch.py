"""Many runs at once: local processes, of which one is killed; plans, tasks, statuses; and what is refused."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from training_runs import QUICK, metrics, run

from folds import launch
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.launching import worker
from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.estimate import frames_per_epoch, makespan
from folds.launching.executor import LaunchSettings
from folds.launching.executors import local, ray
from folds.launching.executors.local import divide_machine
from folds.launching.launcher import Launcher
from folds.launching.options import LaunchOptions
from folds.launching.plan import MemberPlan, Plan, plan_names, read_plan
from folds.launching.status import known_runs, read_status
from folds.launching.status_table import duration
from folds.launching.tasks import Task, make_tasks
from folds.store.attempts import read_attempts, record_attempt
from folds.store.lease import hold, holder_of
from folds.store.run_folder import RunFolder
from folds.training.memory import MemoryRanOut
from registry import InputError, create_model
from registry.errors import MachineFault

# As in training_runs, without the options that are the launcher's own.
OPTIONS = QUICK[2 : QUICK.index("--folds")] + QUICK[QUICK.index("--folds") + 2 :]
LAUNCH = ["--models", "lstm_small", "--fold-count", "2", *OPTIONS]


def start(monkeypatch: pytest.MonkeyPatch, data: Path, runs: Path, *options: str) -> int:
    """Run the launch command; the exit status."""
    # Its processes must find this package, wherever the tests are run.
    monkeypatch.setenv("PYTHONPATH", str(Path(launch.__file__).parents[1]))
    monkeypatch.setattr(sys, "argv", ["launch", "--data", str(data), "--runs", str(runs), *options])
    return launch.main()


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
    assert "4 finished" in out and f"next: python -m ensemble.blend --runs {tmp_path / 'runs'}" in out
    # Everything is finished: nothing is started again, and the status is the runs' own.
    assert start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH, *epochs, "--seeds", "0,1") == 0
    assert [attempt.event for attempt in read_attempts(folder.attempts)] == events
    assert start(monkeypatch, tiny, tmp_path / "runs", "--status") == 0
    assert "lstm_small fold 0        finished  6/6" in capsys.readouterr().out


def test_a_failed_run_tells_its_reason_and_log_and_stops_no_other(tiny, tmp_path, monkeypatch, capsys):
    """A checkpoint of another model in one folder: its run is refused, and the other one is trained."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--hidden", "16", "--fold", "0")
    (tmp_path / "lstm_small" / "fold0" / "test.safetensors").unlink()
    capsys.readouterr()
    assert start(monkeypatch, tiny, tmp_path, *LAUNCH, "--epochs", "2", "--jobs", "1") == 1
    out = capsys.readouterr().out
    log = tmp_path / "lstm_small" / "fold0" / "log.txt"
    assert f"lstm_small fold 0 failed: {tmp_path / 'lstm_small' / 'fold0'}: started with other settings" in out
    assert f"log: {log}" in out and "error: " in log.read_text() and "1 failed, 1 finished" in out
    assert [attempt.event for attempt in read_attempts(log.with_name("attempts.jsonl"))] == ["started", "failed"]


class FakeExecutor:
    """Ends each attempt at once, as `outcomes` says, in order."""

    poll_s = 0.0

    def __init__(self, outcomes: dict[str, list[Outcome]]) -> None:
        self.outcomes, self.submitted, self._running = outcomes, [], []

    def submit(self, tasks) -> None:
        self.submitted += [task.title for task in tasks]
        self._running += tasks

    def ended(self):
        running, self._running = self._running, []
        return [(task, self.outcomes[task.title].pop(0)) for task in running]

    def close(self) -> None:
        pass

    def interrupt(self) -> str:
        return "detached"


def tasks_of(data: Path, runs: Path, *more: str, **options):
    chosen = LaunchOptions(data=data, models="lstm_small", fold_count=2, **options)
    return make_tasks(chosen.read_plan(), chosen, Destination(runs), [*OPTIONS, *more])


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


def test_ctrl_c_stops_so_that_the_same_command_continues(tiny, tmp_path, monkeypatch, capsys):
    folder = RunFolder(tmp_path / "lstm_small" / "fold0")

    def interrupt() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not folder.checkpoints:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert start(monkeypatch, tiny, tmp_path, *LAUNCH, "--folds", "0", "--epochs", "5000") == 130
    assert "the states are saved: continue with the same command" in capsys.readouterr().err
    assert holder_of(folder.path) is None and read_status(folder).state == "stopped"
    assert [attempt.event for attempt in read_attempts(folder.attempts)] == ["started", "stopped"]


def test_tasks_of_a_plan(tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "options: {epochs: 3, prior: false}\n"
        "members:\n"
        "  - {model: lstm_small, name: wide, folds: [1], refit: true, seeds: [0, 2], options: {channels: [8, 8]}}\n"
        "  - {model: gru_small, folds: none, refit: true, options: {epochs: 4}}\n"
    )
    options = LaunchOptions(data=tiny, plan=str(plan))
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), ["--lr", "0.01"])
    names = [str(task.folder.path.relative_to(tmp_path / "runs")) for task in tasks]
    wide = ["wide/fold1", "wide.seed2/fold1", "wide.all/fold0", "wide.seed2.all/fold0"]
    assert names == [*wide, "gru_small.all/fold0"]
    recipes = [task.parsed.options.recipe for task in tasks]
    assert [recipe.epochs for recipe in recipes] == [3, 3, 3, 3, 4] and not any(recipe.prior for recipe in recipes)
    assert {recipe.lr for recipe in recipes} == {0.01} and tasks[0].parsed.config.channels == (8, 8)
    assert [task.parsed.options.seed for task in tasks] == [0, 2, 0, 2, 0]


@pytest.mark.parametrize("name", ["course-20M", "cpu", "open"])
def test_plans_of_the_package_are_accepted_by_training(name, tiny, tmp_path):
    assert name in plan_names()
    options = LaunchOptions(data=tiny, plan=name)
    assert len(make_tasks(options.read_plan(), options, Destination(tmp_path), [])) >= 8


def test_the_course_plan_is_within_its_limit(tiny, tmp_path):
    options = LaunchOptions(data=tiny, plan="course-20M")
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    refits = [task.parsed for task in tasks if task.parsed.options.folds == 1]
    configs = [dict(vars(refit.config)) | {"features": 28, "classes": 41} for refit in refits]
    models = [create_model(refit.name, **config) for refit, config in zip(refits, configs, strict=True)]
    assert len(refits) == 3 and 19e6 < sum(p.numel() for model in models for p in model.parameters()) <= 20e6
    assert read_plan("course-20M").blend_options == " --max-params 20M --forbid attention"


def test_tags_that_a_plan_forbids_reach_the_blend_together():
    """A second --forbid would replace the first."""
    plan = Plan(members=(MemberPlan(model="lstm_small"),), forbid=("attention", "transductive"))
    assert plan.blend_options == " --forbid attention transductive"


@pytest.mark.parametrize("name", ["seed", "fold", "model", "name", "resume"])
def test_an_option_of_a_plan_that_decides_which_run_it_is_is_refused(name, tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"options: {{{name}: 1}}\nmembers:\n  - {{model: lstm_small}}\n")
    options = LaunchOptions(data=tiny, plan=str(plan))
    with pytest.raises(InputError, match=f"the plan's options of lstm_small: {name} is none of them: a member's model"):
        make_tasks(options.read_plan(), options, Destination(tmp_path / "runs"), [])


def test_the_machine_is_divided():
    assert [share.threads for share in divide_machine(0, 1, cores=8, gpus=[])] == [8]
    assert [share.threads for share in divide_machine(0, 20, cores=8, gpus=[])] == [1] * 8
    assert [share.threads for share in divide_machine(16, 20, cores=8, gpus=[])] == [1] * 16
    shares = divide_machine(0, 20, cores=16, gpus=["2", "5"])
    assert [(share.gpu, share.threads) for share in shares] == [("2", 8), ("5", 8)]
    assert shares[1].environment == {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "5"}


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
        (["--models", "lstm_small", "--epoch", "1"], "Unrecognized options: --epoch"),
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


def test_hours():
    assert makespan([3, 1, 1, 1], jobs=2) == 3 and makespan([1, 1, 4], jobs=2) == 5 and makespan([2, 2], jobs=1) == 4


def test_a_dry_run_estimates_and_starts_nothing(tiny, tmp_path, monkeypatch, capsys):
    """By the speed of a few steps; runs with a number of minutes take those."""
    dry = [*LAUNCH, "--dry-run", "--jobs", "1"]
    assert start(monkeypatch, tiny, tmp_path / "runs", *dry, "--minutes", "90") == 0
    assert "2 runs: 3:00 h of training in all, about 3:00 h one after the other" in capsys.readouterr().out
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    assert start(monkeypatch, tiny, tmp_path / "runs", *dry, "--epochs", "10") == 0
    dataset = load_dataset(tiny)
    frames = dataset.train.lengths.sum() * 10  # each fold trains on the other
    assert f"2 runs: {duration(frames / 3600)} of training in all" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_launch_on_gpus_tries_no_step_itself(tiny, tmp_path, monkeypatch, capsys):
    """Its process would keep memory that the runs need."""
    monkeypatch.setattr(Task, "device", "cuda")
    monkeypatch.setattr(Launcher, "run", lambda self, tasks: {})
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    assert start(monkeypatch, tiny, tmp_path / "runs", *LAUNCH) == 1
    assert "2 unknown: no run of theirs has trained yet" in capsys.readouterr().out


def test_the_machine_is_divided_among_all_unfinished_runs(tiny, tmp_path, monkeypatch):
    """Though other processes may still hold all but one of them when the launch begins."""
    started: list[Any] = []
    monkeypatch.setattr(local, "RunningAttempt", lambda task, *_, **options: started.append(options) or task)
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="all", seeds="0,1", fold_count=2)
    tasks = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    executor = local.LocalExecutor(LaunchSettings(tmp_path, 4, 3, len(tasks)))
    executor.submit([])
    for task in tasks:
        executor.submit([task])
    assert len(tasks) == 4 == len(started)


def test_runs_are_trained_on_the_data_of_the_launch(tiny, tmp_path):
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="0", smooth=1.5)
    (task,) = make_tasks(options.read_plan(), options, Destination(tmp_path), [])
    assert task.parsed.options.smooth == 1.5 and "--smooth" in task.arguments


def test_the_estimate_counts_the_frames_of_the_chosen_speakers(tiny, tmp_path):
    options = LaunchOptions(data=tiny, runs=tmp_path, models="lstm_small", folds="0", fold_count=2)
    dataset = load_dataset(tiny)
    half, whole = (
        frames_per_epoch(make_tasks(options.read_plan(), options, Destination(tmp_path), more)[0], dataset)
        for more in (["--speakers", "0.5"], [])
    )
    assert whole == dataset.train.lengths[speaker_folds(dataset.train, 2) != 0].sum() and 0 < half < whole


def test_a_gpu_by_number_is_refused(tiny, tmp_path, monkeypatch):
    message = "^--device cuda:1: processes here are given their device: set CUDA_VISIBLE_DEVICES=1, and use --device "
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("members: [", "not readable as YAML"),
        ("members: []", "no members"),
        ("members:\n  - {model: gru, fold: 1}", "members[0]: Object contains unknown field fold"),
        ("members:\n  - {model: gru, seeds: x}", "members[0].seeds: expected array, found str"),
        ("\x00", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_plan(text, message, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        read_plan(str(path))
    assert str(error.value).startswith(f"--plan {path}: ") and message in str(error.value)
