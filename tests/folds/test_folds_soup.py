"""Soups: the mean of one run's last weights becomes a fold model; several runs are refused with the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import run as train_quick
from training_runs import run_folder

import models
from folds.soup import SoupOptions, make_soup
from folds.store.checkpoint import mean_weights
from folds.store.fold_model import find_fold_models
from folds.store.run_folder import RunFolder
from registry import InputError


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """Train a small model with these options; the runs folder it is in."""

    def train(*options: str):
        train_quick(monkeypatch, tiny, tmp_path, *options)
        return tmp_path

    return train


def test_the_mean_is_of_each_weight_and_integers_stay_integers(tmp_path):
    for number, (weight, count) in enumerate([(1.0, 3), (4.0, 5)]):
        tensors = {"model.a": torch.full((2,), weight), "model.n": torch.tensor(count), "optimizer.0.m": torch.ones(1)}
        save_file(tensors, tmp_path / f"{number}.safetensors")
    mean = mean_weights(sorted(tmp_path.glob("*")))
    assert sorted(mean) == ["a", "n"] and mean["a"].tolist() == [2.5, 2.5] and mean["n"].item() == 5
    assert mean["a"].dtype == torch.float32


def test_a_run_that_predicts_with_averaged_weights_has_a_soup_of_those(tiny, trained):
    runs = trained("--epochs", "3", "--keep", "3", "--average", "0.5")
    run = RunFolder(run_folder(runs))
    soup = load_file(make_soup(SoupOptions(run=(run.path,), data=tiny, last=3)).weights)
    parts = [load_file(path) for path in run.checkpoints]
    averages = np.mean([part["more.average.output.weight"].numpy() for part in parts], axis=0)
    own = np.mean([part["model.output.weight"].numpy() for part in parts], axis=0)
    np.testing.assert_allclose(soup["output.weight"].numpy(), averages, rtol=1e-5, atol=1e-7)
    assert np.abs(averages - own).max() > 1e-4


def test_a_soup_is_a_member_of_its_own(tiny, trained):
    runs = trained("--epochs", "3", "--keep", "3")
    run = RunFolder(run_folder(runs))
    assert len(run.checkpoints) == 3
    folder = make_soup(SoupOptions(run=(run.path,), data=tiny, last=3))
    assert [fold_model.name for fold_model in find_fold_models(runs)] == ["lstm_small", "lstm_small.soup"]
    weights = load_file(folder.weights)
    parts = [load_file(path) for path in run.checkpoints]
    mean = np.mean([part["model.output.weight"].numpy() for part in parts], axis=0)
    np.testing.assert_allclose(weights["output.weight"].numpy(), mean, rtol=1e-5, atol=1e-7)
    before, after = (fold_model.load("dev") for fold_model in find_fold_models(runs))
    assert before.ids == after.ids and (before.values != after.values).any()
    before, after = (fold_model.load("oof") for fold_model in find_fold_models(runs))
    assert before.ids == after.ids and (before.values != after.values).any()
    assert len(json.loads(folder.config.read_text())["soup"]) == 3
    with pytest.raises(InputError, match="is a soup itself, which has no checkpoints"):
        make_soup(SoupOptions(run=(folder.path,), data=tiny))
    loaded = models.load(folder.path).network.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_errors_say_what_to_do(tiny, trained):
    with pytest.raises(InputError, match="no run is given"):
        SoupOptions()
    run = run_folder(trained("--epochs", "1"))
    with pytest.raises(InputError, match="lstm_small: not the folder of a run: pass one such as runs/<model>/fold0"):
        make_soup(SoupOptions(run=(run.parent,), data=tiny))
    with pytest.raises(InputError, match="expected one run: .* no utterance would be out of fold"):
        SoupOptions(run=(run, run.with_name("fold1")))
    with pytest.raises(InputError, match="--last 1: expected at least 2"):
        SoupOptions(run=(run,), last=1)
    with pytest.raises(InputError, match="1 checkpoints, fewer than --last 2: train with --keep 2"):
        make_soup(SoupOptions(run=(run,), data=tiny))
    (run / "test.safetensors").unlink()
    with pytest.raises(InputError, match="fold0: not finished: continue it with folds.train --resume first"):
        make_soup(SoupOptions(run=(run,), data=tiny))


def test_a_config_that_does_not_fit_the_checkpoints_is_one_line(tiny, trained):
    run = RunFolder(run_folder(trained("--epochs", "2", "--keep", "2")))
    text = run.config.read_text()

    def refusal(change) -> str:
        content = json.loads(text)
        change(content)
        run.config.write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            make_soup(SoupOptions(run=(run.path,), data=tiny))
        assert not run.soup.path.exists()
        return str(error.value)

    expected = "not the weights of this network (Error(s) in"
    assert expected in refusal(lambda content: content["model_config"].pop("hidden"))
    expected = "options.smooth: expected float, found bool"
    assert expected in refusal(lambda content: content["options"].update(smooth=True))
