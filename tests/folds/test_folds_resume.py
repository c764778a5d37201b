"""Runs that are killed, stopped, finished, older, or started with different settings, and run again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from training_runs import QUICK, metric_rows, metrics, run, run_folder, signal_in_step

from folds.data.batches import plan
from folds.data.cache import load_dataset
from folds.data.speaker_folds import FOLD_ASSIGNMENT, speaker_folds
from folds.store.fold_model import find_fold_models, read_fold_model
from folds.store.log_probs import read_log_probs
from folds.store.run_folder import RunFolder
from folds.training import loop
from folds.training.resumption import StartedOtherwise, check_same_run
from folds.training.state import State
from folds.training.step import train_step
from registry import InputError


def test_a_run_killed_at_any_moment_ends_in_the_same_metrics(undisturbed, tiny, tmp_path):
    arguments = [sys.executable, "-m", "folds.train", "--data", str(tiny), "--runs", str(tmp_path), *QUICK]
    arguments += ["--epochs", "6", "--resume"]
    folder = run_folder(tmp_path)
    for epochs in (1, 3):  # killed once this many epochs are measured: before, while or after they are saved
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            path = folder / "metrics.jsonl"
            if path.exists() and len(path.read_text().splitlines()) >= epochs:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "test.safetensors").exists()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    assert metrics(folder) == metrics(undisturbed)
    for split in ("oof", "dev", "test"):
        one, other = (read_log_probs(path / f"{split}.safetensors") for path in (folder, undisturbed))
        assert np.array_equal(one.values, other.values) and one.ids == other.ids


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_stopped_by_a_signal_saves_and_can_be_resumed(
    undisturbed, tiny, tmp_path, monkeypatch, capsys, number, status
):
    """The signal arrives in the middle of the third epoch; the rest of it repeats every bit."""
    steps = signal_in_step(monkeypatch, 11, number)  # epochs have four batches
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "6") == status
    assert f"stopped by {number.name}; the state is saved" in capsys.readouterr().err
    folder = run_folder(tmp_path)
    assert len(metrics(folder).splitlines()) == 2 and len(steps) == 11
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    assert "resumed after step 11" in capsys.readouterr().out
    assert len(steps) == batches_of_six_epochs(tiny) and metrics(folder) == metrics(undisturbed)


def test_a_signal_while_the_last_epoch_is_measured_stops_the_command(tiny, tmp_path, monkeypatch, capsys):
    measure = loop._measure

    def stopping(state, task, logger):
        if state.counters.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        measure(state, task, logger)

    monkeypatch.setattr(loop, "_measure", stopping)
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--fold", "all") == 143
    assert "the state is saved" in capsys.readouterr().err
    assert not (run_folder(tmp_path) / "test.safetensors").exists() and not (tmp_path / "lstm_small" / "fold1").exists()
    monkeypatch.undo()
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--resume") == 0
    assert RunFolder(run_folder(tmp_path)).finished and len(metric_rows(run_folder(tmp_path))) == 2


def test_the_time_of_a_stopped_epoch_counts_both_parts(tiny, tmp_path, monkeypatch):
    """Steps before the stop take half a second longer, and so does the epoch, although another process ends it."""
    steps: list[int] = []

    def slow(*arguments):
        steps.append(1)
        if len(steps) == 3:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", slow)
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "1") == 143
    monkeypatch.setattr(loop, "train_step", train_step)
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume") == 0
    timing = json.loads((run_folder(tmp_path) / "timing.jsonl").read_text())
    assert timing["wall_s"] > 0.5
    dataset = load_dataset(tiny)
    frames = dataset.train.lengths[speaker_folds(dataset.train, 2) != 0].sum()
    assert timing["wall_s"] * timing["frames_per_s"] == pytest.approx(frames, rel=0.02)


def batches_of_six_epochs(tiny) -> int:
    dataset = load_dataset(tiny)
    lengths = dataset.train.lengths[speaker_folds(dataset.train, 2) != 0]
    return sum(len(plan(lengths, frames=400, seed=0, epoch=epoch)) for epoch in range(1, 7))


def test_averaged_weights_predict_and_survive_a_stop(tiny, tmp_path, monkeypatch):
    options = ["--epochs", "4", "--average", "0.3"]
    run(monkeypatch, tiny, tmp_path / "whole", *options)
    whole = run_folder(tmp_path / "whole")
    save, saved = State.save, []

    def save_twice(state, folder):
        save(state, folder)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tiny, tmp_path, *options)
    run(monkeypatch, tiny, tmp_path, *options, "--resume")
    assert metrics(run_folder(tmp_path)) == metrics(whole)
    run(monkeypatch, tiny, tmp_path / "plain", "--epochs", "4")
    plain = run_folder(tmp_path / "plain")
    one, other = (read_log_probs(folder / "dev.safetensors").values for folder in (whole, plain))
    assert not np.array_equal(one, other)


def test_a_finished_run_is_left_alone(undisturbed, tiny, monkeypatch, capsys):
    before = metrics(undisturbed)
    run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "6")
    assert "already finished" in capsys.readouterr().out and metrics(undisturbed) == before


def test_other_settings_for_a_run_begun_before_are_refused(undisturbed, tiny, monkeypatch):
    with pytest.raises(InputError, match=r"finished with different settings \(epochs was 6, now 7\): leave it out, or"):
        run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "7", "--resume")
    with pytest.raises(InputError, match=r"finished with different settings \(model.dropout was [\d.]+, now 0.5\)"):
        run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "6", "--dropout", "0.5")


def test_only_options_that_change_no_result_may_change(undisturbed):
    """Guides and teachers count by their contents, and a warm restart by whether there is one."""
    started = read_fold_model(RunFolder(undisturbed))
    options = started.recorded["options"]

    def refused(**changed) -> bool:
        try:
            check_same_run(started, started.recorded | {"options": options | changed})
        except StartedOtherwise:
            return True
        return False

    assert not refused()
    fixed = {"smooth", "folds", "fold_by", "with_dev", "seed", "restart_from", "teacher_test", "skip_bad"}
    assert {name for name in options.keys() - {"recipe"} if refused(**{name: "changed"})} == fixed
    recipe = options["recipe"]
    free = {name for name in recipe if not refused(recipe=recipe | {name: "changed"})}
    assert free == {"precision"}  # what it is on this device is compared instead, and recorded under "hardware"


def test_a_run_that_is_finished_with_other_settings_does_not_stop_the_others(tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    before = metrics(run_folder(tmp_path))
    with pytest.raises(InputError, match=r"fold0: finished with different settings \(epochs was 1, now 2\)"):
        run(monkeypatch, tiny, tmp_path, "--fold", "all", "--epochs", "2")
    assert metrics(run_folder(tmp_path)) == before
    assert RunFolder(run_folder(tmp_path).with_name("fold1")).finished


def test_an_unfinished_run_must_be_resumed(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    (run_folder(tmp_path) / "test.safetensors").unlink()
    with pytest.raises(InputError, match="started before and not finished: pass --resume"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume")
    assert len(find_fold_models(tmp_path)) == 1


def test_a_full_disk_is_one_line_and_the_run_can_be_resumed_later(tiny, tmp_path):
    """A limit on the size of files acts like a full disk: the checkpoint does not fit."""
    code = (
        "import resource, signal; from registry import command; from folds import train;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        "command(train.main)"
    )
    arguments = ["--data", str(tiny), "--runs", str(tmp_path), *QUICK, "--epochs", "2", "--resume"]
    load_dataset(tiny)  # the cache is larger than the limit, and not what is tested
    full = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert full.returncode == 2 and "error: the disk or a quota is full" in full.stderr, full.stderr
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("checkpoint/*.safetensors"))
    subprocess.run([sys.executable, "-m", "folds.train", *arguments], check=True, stdout=subprocess.DEVNULL)
    (fold_model,) = find_fold_models(tmp_path)
    assert [row["epoch"] for row in metric_rows(fold_model.path)] == [1, 2]


def test_a_run_older_than_an_option_can_be_resumed(tiny, tmp_path, monkeypatch, capsys):
    """Of the recipe, of the masks in it, of the model, and older than the hash of features."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")

    def make_older(config) -> None:
        del config["options"]["recipe"]["keep"], config["options"]["recipe"]["augment"]["noise"]
        del config["model_config"]["dropout"], config["data"]["features"]

    edit_config(tmp_path, make_older)
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume")
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"different settings \(augment.noise was 0.0, now 0.5\)"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume", "--noise", "0.5")


def test_a_run_of_other_features_is_not_resumed(tiny, tmp_path, monkeypatch):
    """The same utterances, with features made anew."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    edit_config(tmp_path, lambda config: config["data"].update(features="0123456789abcdef"))
    with pytest.raises(InputError, match="fold0: was started on different data: pass those with --data"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume")


def test_a_checkpoint_of_the_version_before_can_be_resumed(undisturbed, tiny, tmp_path, monkeypatch):
    """Its header had the counters under "at", and the count of non-finite steps under "streak"."""
    shutil.copytree(undisturbed, run_folder(tmp_path))
    folder = RunFolder(run_folder(tmp_path))
    for split in ("oof", "dev", "test"):
        folder.predictions(split).unlink()
    folder.checkpoints[-1].unlink()
    (checkpoint,) = folder.checkpoints
    header = json.loads(header_of(checkpoint))
    header["at"] = header.pop("counters")
    header["at"]["streak"] = header["at"].pop("nonfinite_steps")
    save_file(load_file(checkpoint), checkpoint, {"header": json.dumps(header)})
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    assert metrics(folder.path) == metrics(undisturbed)


def header_of(checkpoint) -> str:
    size = int.from_bytes(checkpoint.read_bytes()[:8], "little")
    return json.loads(checkpoint.read_bytes()[8 : 8 + size])["__metadata__"]["header"]


def test_a_run_under_another_fold_assignment_is_not_resumed(undisturbed, tiny, tmp_path, monkeypatch):
    """A run that does not record its assignment has the first one; with a single fold there is none."""
    shutil.copytree(undisturbed, run_folder(tmp_path))
    edit_config(tmp_path, lambda config: config.pop("fold_assignment"))
    assert find_fold_models(tmp_path)[0].fold_assignment == 1
    with pytest.raises(InputError, match=f"started with fold assignment 1, now {FOLD_ASSIGNMENT}"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    edit_config(tmp_path, lambda config: config.update(fold_assignment=FOLD_ASSIGNMENT + 1))
    with pytest.raises(InputError, match=f"started with fold assignment {FOLD_ASSIGNMENT + 1}, now {FOLD_ASSIGNMENT}"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")


def test_with_one_fold_the_assignment_does_not_matter(tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--folds", "1")
    path = tmp_path / "lstm_small.all" / "fold0" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fold_assignment": 1}))
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--folds", "1")
    assert "already finished" in capsys.readouterr().out


def edit_config(runs, edit) -> None:
    path = run_folder(runs) / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def test_a_run_begun_without_a_restart_is_not_resumed_as_one(undisturbed, tiny, tmp_path, monkeypatch):
    """Neither is one that is older than the option."""
    shutil.copytree(undisturbed, run_folder(tmp_path))

    def forget(config):
        del config["options"]["restart_from"], config["options"]["recipe"]["prior"]

    edit_config(tmp_path, forget)
    run(monkeypatch, tiny, tmp_path, "--epochs", "6")
    for options in (["--restart-from", str(undisturbed.parents[1])], ["--no-prior"]):
        with pytest.raises(InputError, match="finished with different settings"):
            run(monkeypatch, tiny, tmp_path, "--epochs", "6", *options)
