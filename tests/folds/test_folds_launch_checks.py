"""What is refused before a launch starts anything: runs with other settings or data, and missing sources."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from launches import LAUNCH, start
from training_runs import run_folder

from folds import launch
from folds.launching.executor import LaunchSettings
from folds.launching.executors.slurm import SlurmExecutor
from folds.launching.launcher import Launcher
from folds.store.lease import hold
from folds.store.remote import RemoteStore
from folds.store.run_folder import RunFolder
from registry import InputError
from registry.json_files import read_json, write_json

EPOCHS = ["--epochs", "6"]
HERE, CLUSTER = ["--on", "local"], ["--on", "slurm", "--gpus", "0"]


@pytest.fixture
def started(monkeypatch):
    """The lists of tasks that were handed to the launcher, which trains none of them."""
    launches: list[list[str]] = []
    monkeypatch.setattr(Launcher, "run", lambda self, tasks: launches.append([task.title for task in tasks]) or {})
    monkeypatch.setattr(SlurmExecutor, "__init__", lambda self, *_: None)
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    return launches


def refused(monkeypatch, data, runs, *options):
    """The message with which a launch is refused, and so its dry run."""
    messages = []
    for more in ([], ["--dry-run"]):
        with pytest.raises(InputError, match="^[^\n]*$") as error:
            start(monkeypatch, data, runs, *LAUNCH, *options, *more)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize("finished", [True, False])
def test_runs_with_other_settings_or_data_are_refused(
    finished, undisturbed, tiny, small, tmp_path, monkeypatch, started
):
    """As folds.train --resume refuses them."""
    folder = run_folder(tmp_path)
    shutil.copytree(undisturbed, folder)
    if not finished:
        (folder / "test.safetensors").unlink()
    how = "finished" if finished else "started"
    for options, difference in (
        (["--epochs", "3"], "epochs was 6, now 3"),
        ([*EPOCHS, "--hidden", "16"], "model.hidden was 24, now 16"),
        ([*EPOCHS, "--lr", "None"], "lr was 0.01, now 0.002"),
    ):
        for where in (HERE, CLUSTER):
            assert f"{folder}: {how} with different settings ({difference})" in refused(
                monkeypatch, tiny, tmp_path, *options, *where
            )
    assert refused(monkeypatch, small, tmp_path, *EPOCHS).startswith(f"{folder}: was started on different data: pass ")
    message = f"{folder}: is a run of lstm_small, not of gru_small: train it under another --name"
    options = ["--models", "gru_small", "--name", "lstm_small", "--folds", "0", *EPOCHS]
    assert refused(monkeypatch, tiny, tmp_path, *options) == message
    assert not started


def test_a_run_that_trains_with_other_settings_is_refused_before_it_has_a_checkpoint(
    undisturbed, tiny, tmp_path, monkeypatch, started
):
    """Once it is left, others may begin in its folder."""
    folder = run_folder(tmp_path)
    folder.mkdir(parents=True)
    shutil.copy(undisturbed / "config.json", folder)
    with hold(folder, "test"):
        assert "started with different settings (epochs was 6, now 3)" in refused(
            monkeypatch, tiny, tmp_path, "--epochs", "3"
        )
    assert not started
    start(monkeypatch, tiny, tmp_path, *LAUNCH, "--epochs", "3")
    assert len(started) == 1


@pytest.mark.parametrize("where", [HERE, CLUSTER])
def test_what_depends_on_the_machine_is_as_the_run_has_it(where, undisturbed, tiny, tmp_path, monkeypatch, started):
    """The frames and the learning rate for a GPU, halved batches, and what auto stands for there."""
    folder = run_folder(tmp_path)
    shutil.copytree(undisturbed, folder)
    record = read_json(folder / "config.json", dict, "")
    record["hardware"] |= {"device": "cuda", "precision": "fp16", "halved": True, "world_size": 4}
    record["options"]["recipe"] |= {"batch_frames": 32_000, "accumulate": 2, "lr": 0.008}
    write_json(folder / "config.json", record)
    options = [*EPOCHS, "--batch-frames", "None", "--lr", "None", *where]
    for more in ([], ["--precision", "fp16"]):
        start(monkeypatch, tiny, tmp_path, *LAUNCH, *options, *more)
    assert started == 2 * [["lstm_small fold 0", "lstm_small fold 1"]]
    message = refused(monkeypatch, tiny, tmp_path, *options, "--precision", "fp32")
    assert "(precision was auto, now fp32)" in message


def test_missing_sources_are_refused(undisturbed, tiny, tmp_path, monkeypatch, started):
    """With the messages of folds.train."""
    source, runs = undisturbed.parents[1], tmp_path / "runs"
    no_run = "is not a finished run with checkpoint/weights.safetensors"
    other_model = f"--restart-from {undisturbed}: {undisturbed} was trained with a model other than gru_small: use the"
    for options, message in (
        (["--restart-from", str(source)], f"--restart-from {source}: {source}/lstm_small/fold1 {no_run}"),
        (["--models", "gru_small", "--folds", "0", "--restart-from", str(undisturbed)], other_model),
        (["--folds", "1", "--guide", "nowhere"], f"--guide nowhere: nowhere/fold1 {no_run}"),
        (["--folds", "none", "--refits", "--teacher", "nowhere.csv.json"], "nowhere.csv.json: no such file"),
    ):
        assert refused(monkeypatch, tiny, runs, *EPOCHS, *options).startswith(message)
    assert not started


def test_other_folds_than_those_of_the_members_other_runs_are_refused(
    undisturbed, tiny, tmp_path, monkeypatch, started
):
    finished = run_folder(tmp_path)
    shutil.copytree(undisturbed, finished)
    for folds in (["--folds", "1"], ["--folds", "2"]):
        message = refused(monkeypatch, tiny, tmp_path, *EPOCHS, "--fold-count", "3", *folds)
        assert message.startswith(f"3 folds: {finished} was started with 2, and all runs of a member must have")
    assert not started


def test_runs_that_are_only_under_a_url_are_checked_as_those_in_a_folder(
    undisturbed, tiny, small, tmp_path, monkeypatch, started, capsys
):
    """Another machine has trained and uploaded one."""
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store"
    shutil.copytree(undisturbed, run_folder(tmp_path / "elsewhere"))
    RemoteStore(url).upload(RunFolder(run_folder(tmp_path / "elsewhere")))
    there = f"{url}/lstm_small/fold0"
    message = refused(monkeypatch, tiny, url, "--epochs", "3", "--folds", "0")
    assert message.startswith(f"{there}: started with different settings (epochs was 6, now 3): use the same settings,")
    message = refused(monkeypatch, small, url, *EPOCHS, "--folds", "0")
    assert message.startswith(f"{there}: was started on different data")
    message = refused(monkeypatch, tiny, url, *EPOCHS, "--fold-count", "3", "--folds", "1")
    assert message.startswith(f"3 folds: {there} was started with 2, and all runs of a member must have")
    assert not started
    assert start(monkeypatch, tiny, Path(url), *LAUNCH, *EPOCHS, "--folds", "0") == 0
    assert capsys.readouterr().out.startswith("1 finished\nnext: python -m ensemble.blend --runs file:///")
    start(monkeypatch, tiny, Path(url), *LAUNCH, *EPOCHS)
    assert started == [["lstm_small fold 0", "lstm_small fold 1"]]
    # The uploaded run takes no more time.
    capsys.readouterr()
    start(monkeypatch, tiny, Path(url), *LAUNCH, *EPOCHS, "--dry-run")
    (estimated,) = [line.split() for line in capsys.readouterr().out.splitlines() if "lstm_small fold 0" in line]
    assert estimated == ["lstm_small", "fold", "0", "finished", "0:00", "h", "finished"]


def test_a_run_that_another_machine_uploads_during_a_launch_is_finished(undisturbed, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("folds.launching.estimate.measure_speed", lambda task, dataset: 1.0)
    url, run = f"file://{tmp_path}/store", RunFolder(run_folder(tmp_path / "elsewhere"))
    shutil.copytree(undisturbed, run.path)
    monkeypatch.setattr(Launcher, "run", lambda self, tasks: RemoteStore(url).upload(run) or {})
    assert start(monkeypatch, tiny, Path(url), *LAUNCH, *EPOCHS, "--folds", "0") == 0


def test_the_status_of_a_url_without_runs_is_refused(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    """A misspelt URL would look like a launch of which nothing is known."""
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store"
    with pytest.raises(InputError, match=f"^{url}: no runs there, nor any launched from here: pass --runs$"):
        start(monkeypatch, tiny, Path(url), "--status")
    run = RunFolder(run_folder(tmp_path / "elsewhere"))
    shutil.copytree(undisturbed, run.path)
    RemoteStore(url).upload(run)
    assert start(monkeypatch, tiny, Path(url), "--status") == 0
    assert "lstm_small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "device"),
    [(["--on", "slurm"], "cuda"), (CLUSTER, "cpu"), (["--on", "slurm", "--device", "cpu"], "cpu")],
)
def test_runs_train_on_the_device_that_their_jobs_request(options, device, tiny, tmp_path, monkeypatch, started):
    devices: list[str] = []
    monkeypatch.setattr(Launcher, "run", lambda self, tasks: devices.extend(task.device for task in tasks) or {})
    start(monkeypatch, tiny, tmp_path, *LAUNCH, *options)
    assert devices == [device] * 2


def test_a_log_that_cannot_be_written_is_refused_before_any_run_starts(tiny, tmp_path, monkeypatch, started):
    (run_folder(tmp_path) / "log.txt").mkdir(parents=True)
    with pytest.raises(InputError, match="^[^\n]*fold0/log.txt[^\n]*Is a directory"):
        start(monkeypatch, tiny, tmp_path, *LAUNCH)
    assert not started


def test_the_machine_is_divided_among_the_unfinished_runs(undisturbed, tiny, tmp_path, monkeypatch, started):
    shutil.copytree(undisturbed, run_folder(tmp_path))
    created: list[LaunchSettings] = []
    monkeypatch.setattr("folds.launch.create_executor", lambda name, settings, options: created.append(settings))
    start(monkeypatch, tiny, tmp_path, *LAUNCH, *EPOCHS, "--jobs", "4", "--retries", "7")
    assert created == [LaunchSettings(tmp_path, jobs=4, retries=7, tasks=1)]


def test_the_next_command_keeps_to_the_limits_of_the_plan(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("folds.launch.check_tasks", lambda *_: None)
    shutil.copytree(undisturbed, run_folder(tmp_path))
    plan = tmp_path / "plan.yaml"
    plan.write_text("max_params: 20M\nforbid: [attention]\nmembers: [{model: lstm_small, folds: [0]}]\n")
    assert start(monkeypatch, tiny, tmp_path, "--plan", str(plan)) == 0
    assert capsys.readouterr().out.endswith(f" --data {tiny} --max-params 20M --forbid attention\n")


def test_the_next_command_reads_the_same_data(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("folds.launch.check_tasks", lambda *_: None)
    runs, data = tmp_path / "all runs", tmp_path / "more data"
    shutil.copytree(undisturbed, run_folder(runs))
    data.symlink_to(tiny)
    options = [*LAUNCH, *EPOCHS, "--folds", "0"]
    for reading in ([], ["--allow-pickle", "--smooth", "1.5"]):
        assert start(monkeypatch, data, runs, *options, *reading) == 0
        following = shlex.join(["python", "-m", "ensemble.blend", "--runs", str(runs), "--data", str(data), *reading])
        assert capsys.readouterr().out.splitlines()[-1] == f"next: {following}"
    monkeypatch.setenv("HW3P2_DATA", str(tiny))
    monkeypatch.setattr(sys, "argv", ["launch", "--runs", "runs", *options])
    monkeypatch.chdir(runs.parent)
    runs.rename("runs")
    assert launch.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: python -m ensemble.blend --runs runs"
