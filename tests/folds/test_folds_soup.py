"""Soups: the mean of one run's last weights becomes a member; several runs are refused with the reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_folds_train import run as train_quick

from folds.soup import SoupOptions, make
from folds.store.checkpoint import files, mean_weights
from folds.store.fold_model import find_fold_models
from registry import InputError


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """Train a small member with these options; the store it is in."""

    def train(*options: str):
        train_quick(monkeypatch, tiny, tmp_path, *options)
        return tmp_path

    return train


def test_the_mean_is_of_each_weight_and_counts_stay_whole(tmp_path):
    for number, (weight, count) in enumerate([(1.0, 3), (4.0, 5)]):
        tensors = {"model.a": torch.full((2,), weight), "model.n": torch.tensor(count), "optimizer.0.m": torch.ones(1)}
        save_file(tensors, tmp_path / f"{number}.safetensors")
    found = mean_weights(sorted(tmp_path.glob("*")))
    assert sorted(found) == ["a", "n"] and found["a"].tolist() == [2.5, 2.5] and found["n"].item() == 5
    assert found["a"].dtype == torch.float32


def test_a_soup_is_a_member_of_its_own(tiny, trained):
    runs = trained("--epochs", "3", "--keep", "3")
    run = runs / "lstm_small" / "fold0"
    assert len(files(run / "checkpoint")) == 3
    folder = make(SoupOptions((run,), data=tiny, last=3))
    assert [member.name for member in find_fold_models(runs)] == ["lstm_small", "lstm_small.soup"]
    weights = load_file(folder / "checkpoint" / "weights.safetensors")
    parts = [load_file(path) for path in files(run / "checkpoint")]
    mean = np.mean([part["model.output.weight"].numpy() for part in parts], axis=0)
    np.testing.assert_allclose(weights["output.weight"].numpy(), mean, rtol=1e-5, atol=1e-7)
    before, after = (member.load("dev") for member in find_fold_models(runs))
    assert before.ids == after.ids and (before.values != after.values).any()
    assert len(json.loads((folder / "config.json").read_text())["soup"]) == 3


def test_faults_say_what_to_do(tiny, trained):
    with pytest.raises(InputError, match="no run is named"):
        SoupOptions(())
    run = trained("--epochs", "1") / "lstm_small" / "fold0"
    with pytest.raises(InputError, match="a soup is of one run: .*nothing would be out of fold"):
        SoupOptions((run, run.with_name("fold1")))
    with pytest.raises(InputError, match="--last 1: expected at least 2"):
        SoupOptions((run,), last=1)
    with pytest.raises(InputError, match="1 checkpoints where --last asks for 2: train with --keep 2"):
        make(SoupOptions((run,), data=tiny))
