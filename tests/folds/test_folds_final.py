"""Final models, trained on dev too; the spacing of checkpoints; folds of data without speakers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from training_runs import metric_rows, metrics, run, run_folder, summary

import ensemble.blend
import ensemble.decode
import ensemble.joint
import ensemble.report
from folds.data.cache import load_dataset
from folds.data.dataset import joined
from folds.data.speaker_folds import speaker_folds
from folds.soup import SoupOptions, make_soup
from folds.store.fold_model import find_fold_models
from folds.store.run_folder import RunFolder, member_name
from folds.training import loop
from folds.training.schedule import SaveTimer
from folds.training.state import State
from registry import InputError

FINAL = ["--folds", "1", "--with-dev", "--epochs", "2"]


def test_joined_splits_have_the_utterances_of_both(tiny):
    dataset = load_dataset(tiny)
    train, dev = dataset.train, dataset.dev
    both = joined(train, dev)
    assert len(both) == len(train) + len(dev) and both.ids == train.ids + dev.ids
    assert both.lengths.tolist() == train.lengths.tolist() + dev.lengths.tolist()
    for index in range(len(both)):
        split, row = (train, index) if index < len(train) else (dev, index - len(train))
        assert np.array_equal(both.features(index), split.features(row))
        assert both.labels(index).tolist() == split.labels(row).tolist()
    assert np.shares_memory(both.features(0), train.features(0))
    assert np.shares_memory(both.features(len(train)), dev.features(0))
    with pytest.raises(ValueError, match="must both have transcripts"):
        joined(train, dataset.test)


@pytest.fixture(scope="module")
def final(tiny, tmp_path_factory) -> Path:
    """The runs folder of a final model, without other members."""
    runs = tmp_path_factory.mktemp("final")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, tiny, runs, *FINAL, "--average", "0.3")
    return runs


def test_a_final_model_is_trained_on_dev_and_not_measured_there(tiny, tmp_path, monkeypatch, capsys):
    dataset = load_dataset(tiny)
    run(monkeypatch, tiny, tmp_path, *FINAL)
    printed = capsys.readouterr().out
    assert f"{len(dataset.train) + len(dataset.dev)} utterances to fit, 0 held out" in printed
    assert "held-out distance" not in printed and "greedy distance" not in printed
    (fold_model,) = find_fold_models(tmp_path)
    assert (fold_model.name, fold_model.with_dev) == ("lstm_small.all-dev", True)
    assert fold_model.recorded["with_dev"] is True and fold_model.config.data.hash == dataset.hash
    assert summary(fold_model.path)["greedy_distance"] == {}
    assert [row["held_out"] for row in metric_rows(fold_model.path)] == [None, None]
    # It predicts all splits, as other runs do.
    assert fold_model.load("dev").ids == dataset.dev.ids and fold_model.load("test").ids == dataset.test.ids
    assert member_name("gru", 1, 1, with_dev=True) == "gru.seed1.all-dev"


def test_dev_changes_what_is_learned(final, tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--folds", "1", "--epochs", "2", "--average", "0.3")
    (without,), (with_dev,) = find_fold_models(tmp_path), find_fold_models(final)
    assert without.name == "lstm_small.all" and not without.with_dev
    assert (without.load("test").values != with_dev.load("test").values).any()


def test_a_final_model_may_start_from_the_same_model_without_dev(tiny, tmp_path, monkeypatch, capsys):
    """And only from that one."""
    first, second = tmp_path / "first", tmp_path / "second"
    run(monkeypatch, tiny, first, *FINAL)
    with pytest.raises(InputError, match="no finished run to start from, neither lstm_small.all nor a fold model"):
        run(monkeypatch, tiny, second, *FINAL, "--restart-from", str(first))
    run(monkeypatch, tiny, first, "--folds", "1", "--epochs", "1")
    run(monkeypatch, tiny, second, *FINAL, "--restart-from", str(first))
    assert "lstm_small.all-dev fold 0: warm restart from" in capsys.readouterr().out


def test_a_soup_of_a_final_model_is_not_measured_on_dev_either(final, tiny):
    folder = make_soup(SoupOptions(run=(final / "lstm_small.all-dev" / "fold0",), data=tiny))
    assert folder.member == "lstm_small.all-dev.soup" and summary(folder.path)["greedy_distance"] == {}
    assert json.loads(folder.config.read_text())["with_dev"] is True
    shutil.rmtree(folder.path.parent)


@pytest.mark.parametrize("command", [ensemble.blend, ensemble.decode, ensemble.joint, ensemble.report])
@pytest.mark.parametrize("pattern", ["lstm_small.all-dev", "*.all-dev"])
def test_what_would_measure_a_final_model_on_dev_is_refused(command, pattern, final, tiny, monkeypatch):
    runs = ["--runs", str(final), "--data", str(tiny)]
    monkeypatch.setattr(sys, "argv", ["command", *runs, "--members", pattern])
    message = "lstm_small.all-dev was trained on dev too, so a distance on dev says"
    with pytest.raises(InputError, match=message) as error:
        command.main()
    assert len(str(error.value).splitlines()) == 1


def test_a_final_model_beside_others_is_left_out_on_dev_and_writes_a_submission(
    final, undisturbed, tiny, tmp_path, monkeypatch, capsys
):
    shutil.copytree(final, tmp_path / "runs")
    shutil.copytree(undisturbed.parent, tmp_path / "runs" / "lstm_small")
    fixed = ["decode", "--runs", str(tmp_path / "runs"), "--data", str(tiny), "--decoder", "greedy"]
    monkeypatch.setattr(sys, "argv", fixed)
    ensemble.decode.main()
    printed = capsys.readouterr()
    assert printed.out.startswith("lstm_small: ") and len(printed.out.splitlines()) == 1
    assert printed.err.startswith("left out: lstm_small.all-dev was trained on dev too, so a distance on dev says")
    out = tmp_path / "submission.csv"
    final_only = ["--members", "*.all-dev", "--split", "test", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*fixed, *final_only])
    ensemble.decode.main()
    assert len(out.read_text().splitlines()) == 1 + len(load_dataset(tiny).test)


def test_checkpoints_are_spaced_and_a_run_repeats_what_was_not_saved(undisturbed, tiny, tmp_path, monkeypatch):
    """Stopped in the third epoch after none was saved: the signal itself saves. Options of spacing may change."""
    saves, save, close, epochs = [], State.save, loop._close_epoch, []

    def counted(state, folder):
        saves.append(state.counters.epoch)
        save(state, folder)

    def stopping(*arguments):
        close(*arguments)
        epochs.append(1)
        if len(epochs) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(State, "save", counted)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_close_epoch", stopping)
        assert run(patch, tiny, tmp_path, "--epochs", "6", "--save-every", "60") == 143
    assert saves == [3] and len(metric_rows(run_folder(tmp_path))) == 2
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--save-every", "30", "--resume")
    # The last is written when training ends.
    assert saves == [3, 7] and metrics(run_folder(tmp_path)) == metrics(undisturbed)


def test_a_kill_between_spaced_checkpoints_repeats_the_epochs(undisturbed, tiny, tmp_path, monkeypatch):
    close, epochs = loop._close_epoch, []

    def killed(*arguments):
        close(*arguments)
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_close_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run(patch, tiny, tmp_path, "--epochs", "6", "--save-every", "60")
    assert not RunFolder(run_folder(tmp_path)).checkpoints
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    assert metrics(run_folder(tmp_path)) == metrics(undisturbed)


def test_when_a_checkpoint_is_due(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("folds.training.schedule.time.monotonic", lambda: now[0])
    each_epoch, spaced = SaveTimer(0.0), SaveTimer(30.0)
    for seconds, expected in ((599, (False, True, False, False)), (601, (True, True, False, False))):
        now[0] = float(seconds)
        found = (each_epoch.due(), each_epoch.due_after_epoch(), spaced.due(), spaced.due_after_epoch())
        assert found == expected
    now[0] = 1801.0
    assert spaced.due() and spaced.due_after_epoch()
    spaced.restart()
    assert not spaced.due() and not spaced.due_after_epoch()


def write_arrays(root: Path) -> None:
    """A competition in the layout of F20 and F21: one array per split, no speakers."""
    random = np.random.default_rng(0)

    def ragged(parts: list[np.ndarray]) -> np.ndarray:
        array = np.empty(len(parts), dtype=object)
        array[:] = parts
        return array

    root.mkdir()
    for split, count in (("train", 12), ("dev", 4), ("test", 4)):
        lengths = random.integers(20, 40, count)
        features = [random.normal(size=(n, 5)).astype(np.float32) for n in lengths]
        np.save(root / f"{split}.npy", ragged(features), allow_pickle=True)
        if split != "test":
            labels = [random.integers(1, 42, 4 + row % 2) for row in range(count)]
            np.save(root / f"{split}_labels.npy", ragged(labels), allow_pickle=True)


def test_folds_without_speakers_are_warned_about(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    write_arrays(tmp_path / "arrays")
    options = ["--epochs", "1", "--allow-pickle"]
    run(monkeypatch, tmp_path / "arrays", tmp_path / "runs", *options, "--fold", "all")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: F20-F21 data name no speakers, so a speaker can be in several folds: out-of-fold distances may be "
        "too low"
    ]
    run(monkeypatch, tmp_path / "arrays", tmp_path / "runs", *options, "--folds", "1")
    run(monkeypatch, tiny, undisturbed.parents[1], "--epochs", "6")
    assert "warning" not in capsys.readouterr().err
    assert set(speaker_folds(load_dataset(tmp_path / "arrays", allow_pickle=True).train, 2)) == {0, 1}
