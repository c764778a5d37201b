"""Delayed twins: the same network reads the first frame several times, and nothing else is different."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import run as train_quick
from training_runs import run_folder, summary

import models
from folds.data.cache import load_dataset
from folds.data.renormalized import as_read
from folds.delay import DelayOptions, write_delayed
from folds.store.fold_model import find_fold_models, read_fold_model
from folds.store.run_folder import RunFolder
from models.features import FeatureTransform
from registry import InputError
from registry.json_files import read_json, write_json


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A runs folder with one run of stride 2 and its twin."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_quick(monkeypatch, tiny, runs, "--epochs", "1")
    (written,) = write_delayed(DelayOptions(run=(run_folder(runs),), data=tiny, device="cpu"))
    assert written.name == "lstm_small.delay1/fold0"
    return runs


def test_predictions_are_those_of_utterances_whose_first_frame_comes_twice(trained, tiny):
    plain, twin = find_fold_models(trained)
    network, dataset = models.load(plain.path), load_dataset(tiny)
    for name, split in (("oof", dataset.train), ("dev", dataset.dev), ("test", dataset.test)):
        before, after = plain.load(name), twin.load(name)
        assert before.ids == after.ids
        row_of = {utterance: row for row, utterance in enumerate(split.ids)}
        for index, utterance in list(enumerate(after.ids))[:3]:
            features = np.array(split.features(row_of[utterance]))
            repeated = np.concatenate([features[:1], features])
            # The features are normalised, so `predict`, which would do that again, is not used here.
            expected, _ = network.network(torch.from_numpy(repeated)[None], torch.tensor([len(repeated)]))
            assert len(after[index]) == -(-len(repeated) // 2)
            np.testing.assert_allclose(after[index], expected[0].detach().numpy(), atol=0.02)
        assert any(len(b) != len(a) or (a != b).any() for a, b in zip(before, after, strict=True))


def test_a_twin_predicts_raw_features_as_it_was_stored(trained, tiny):
    _, twin = find_fold_models(trained)
    loaded, stored = models.load(twin.path), twin.load("dev")
    assert loaded.description.delay == twin.delay == 1
    raw = np.load(next(tiny.glob(f"dev*/mfcc/{stored.ids[0]}.npy")))
    np.testing.assert_allclose(loaded.predict(raw), stored[0], atol=0.02)


def test_a_twin_has_the_distances_and_the_cost_of_a_run(trained):
    plain, twin = find_fold_models(trained)
    ours, theirs = summary(twin.path), summary(plain.path)
    assert sorted(ours["greedy_distance"]) == ["dev", "oof"] and ours["cpu_minutes"] == theirs["cpu_minutes"]
    config = json.loads(twin.folder.config.read_text())
    assert config.pop("delay") == {"frames": 1, "of": plain.folder.weights_hash} and config == plain.recorded
    assert twin.weights_hash == plain.weights_hash != twin.folder.weights_hash


def test_what_is_done_or_delayed_already_is_left_out(trained, tiny, capsys):
    folders = tuple(fold_model.path for fold_model in find_fold_models(trained))
    assert len(folders) == 2 and write_delayed(DelayOptions(run=folders, data=tiny, device="cpu")) == []
    assert capsys.readouterr().out == "lstm_small.delay1 fold 0: already finished, left unchanged\n"


def test_runs_that_are_not_finished_are_left_out_and_outdated_twins_made_again(trained, tiny, tmp_path, capsys):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    run, twin = run_folder(tmp_path), tmp_path / "lstm_small.delay1" / "fold0"
    options = DelayOptions(run=(run,), data=tiny, device="cpu")
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(config | {"delay": {"frames": 1, "of": "another"}}))
    assert [folder.path for folder in write_delayed(options)] == [twin]
    assert json.loads((twin / "config.json").read_text()) == config
    (run / "test.safetensors").unlink()
    capsys.readouterr()
    assert write_delayed(options) == [] and capsys.readouterr().out == f"left out: {run} is not finished\n"


def test_errors_say_what_to_do(trained, tiny, tmp_path):
    with pytest.raises(InputError, match="no run is given"):
        DelayOptions()
    run = run_folder(trained)
    with pytest.raises(InputError, match="--frames 4: a multiple of the stride of .*, 2, changes nothing: leave"):
        write_delayed(DelayOptions(run=(run,), data=tiny, frames=(4,)))
    with pytest.raises(InputError, match="--frames 0: expected 1 to 1000"):
        DelayOptions(run=(run,), frames=(1, 0))
    with pytest.raises(InputError, match="fold7 is not a finished run"):
        write_delayed(DelayOptions(run=(run.with_name("fold7"),), data=tiny))


def test_other_data_are_refused(trained, tiny, tmp_path):
    changed = tmp_path / "competition"
    shutil.copytree(tiny, changed)
    transcript = next(changed.glob("train*/transcript/*.npy"))
    np.save(transcript, np.delete(np.load(transcript), 2))
    with pytest.raises(InputError, match="was trained on data other than"):
        write_delayed(DelayOptions(run=(run_folder(trained),), data=changed, frames=(3,)))


def test_other_features_of_the_same_utterances_are_refused(trained, tiny, tmp_path):
    changed = tmp_path / "competition"
    shutil.copytree(tiny, changed)
    features = next(changed.glob("train*/mfcc/*.npy"))
    np.save(features, np.load(features)[::-1])
    with pytest.raises(InputError, match="was trained on data other than"):
        write_delayed(DelayOptions(run=(run_folder(trained),), data=changed, frames=(3,)))


def test_a_twin_that_is_made_again_is_not_finished_until_all_is_written(trained, tiny, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    twin = RunFolder(tmp_path / "lstm_small.delay1" / "fold0")
    config = read_json(twin.config, dict, "")
    write_json(twin.config, config | {"delay": {"frames": 1, "of": "another"}})

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    options = DelayOptions(run=(run_folder(tmp_path),), data=tiny, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("folds.training.derived_run.write_predictions", interrupted)
        write_delayed(options)
    assert not twin.finished and len(find_fold_models(tmp_path)) == 1
    assert [folder.path for folder in write_delayed(options)] == [twin.path] and twin.finished


@pytest.mark.parametrize(
    ("member", "refit_of", "undelayed"),
    [
        ("gru.delay2", "gru.delay2", "gru"),
        ("gru.seed1.all.delay2", "gru.seed1.delay2", "gru.seed1.all"),
        ("gru.all-dev.soup.delay12", "gru.soup.delay12", "gru.all-dev.soup"),
        ("gru.all", "gru", "gru.all"),
        ("gru_delay2", "gru_delay2", "gru_delay2"),
    ],
)
def test_names(tmp_path, member, refit_of, undelayed):
    folder = RunFolder(tmp_path / member / "fold0")
    assert folder.refit_of == refit_of and folder.undelayed == RunFolder(tmp_path / undelayed / "fold0")
    assert RunFolder(Path("fold0")).undelayed == RunFolder(Path("fold0"))


def test_a_delayed_split_has_longer_utterances_and_the_same_transcripts(tiny):
    split = load_dataset(tiny).dev
    later = as_read(split, FeatureTransform(delay=3))
    assert (later.lengths == split.lengths + 3).all() and later.frame_counts[split.ids[0]] == split.lengths[0] + 3
    features = later.features(1)
    assert (features[:3] == split.features(1)[0]).all() and (features[3:] == split.features(1)).all()
    assert later.tokens is split.tokens and as_read(split, FeatureTransform()) is split


@pytest.mark.parametrize("delay", [-1, 1001])
def test_impossible_delays_are_refused(delay):
    with pytest.raises(ValueError, match=f"delay is {delay}; expected 0 to 1000"):
        FeatureTransform(delay=delay)


def test_a_damaged_delay_in_config_json_is_one_line(trained, tmp_path):
    twin = read_fold_model(RunFolder(trained / "lstm_small.delay1" / "fold0"))
    folder = RunFolder(tmp_path / "lstm_small.delay1" / "fold0")
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps(twin.recorded | {"delay": {"frames": 0, "of": "x"}}))
    with pytest.raises(InputError, match=r"config.json: delay.frames"):
        read_fold_model(folder)
