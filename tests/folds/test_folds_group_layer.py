"""Training with a layer for each speaker: stored, restored, predicted with, continued and refused."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from training_runs import metrics, run, run_folder

import models
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.soup import SoupOptions, make_soup
from folds.store.fold_model import load_model, read_fold_model
from folds.store.run_folder import RunFolder
from folds.training.predict import predict
from registry import InputError

LAYER = ("--group-layer", "speaker")


@pytest.fixture(scope="module")
def grouped(tiny, tmp_path_factory):
    """The folder of a run of three epochs with a layer for each speaker."""
    runs = tmp_path_factory.mktemp("grouped")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, runs, "--epochs", "3", "--keep", "3", *LAYER)
    return RunFolder(run_folder(runs))


def test_a_run_records_its_groups_and_counts_their_parameters(grouped, undisturbed, tiny):
    config, plain = (json.loads((path / "config.json").read_text()) for path in (grouped.path, undisturbed))
    train = load_dataset(tiny).train
    fitted = speaker_folds(train, 2) != 0
    speakers = sorted({group for group, used in zip(train.groups, fitted, strict=True) if used})
    assert config["group_layer"] == {"by": "speaker", "groups": speakers, "softsign": False}
    assert config["parameters"] - plain["parameters"] == len(speakers) * 5 * 6 and plain["group_layer"] is None
    learned = load_model(read_fold_model(grouped)).group_layer
    assert learned is not None and all(bool(weight.abs().sum() > 0) for weight in learned.weight)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(learned.weight, 2))


def test_predictions_are_those_of_the_restored_network(grouped, tiny):
    """Held-out speakers go through the mean layer; so do those of dev and test."""
    fold_model, dataset = read_fold_model(grouped), load_dataset(tiny)
    network, trained = load_model(fold_model), models.load(grouped.path)
    held_out = np.flatnonzero(speaker_folds(dataset.train, 2) == 0)
    for split, indices, name in ((dataset.train, held_out, "oof"), (dataset.test, np.arange(6), "test")):
        stored = fold_model.load(name)
        again = predict(
            network, split, indices, frames=400, alphabet_hash=dataset.alphabet.hash, device=torch.device("cpu")
        )
        np.testing.assert_allclose(stored.values, again.values, atol=2e-2)
        alone = trained.predict(np.array(split.features(int(indices[0]))))
        np.testing.assert_allclose(stored[0].astype(np.float32), alone, atol=2e-2)


def test_a_soup_has_the_layer(grouped, tiny):
    soup = make_soup(SoupOptions(run=(grouped.path,), data=tiny, last=2))
    assert models.load(soup.path).description.group_layer == models.load(grouped.path).description.group_layer


def test_a_refit_has_more_groups_than_a_fold_model_to_start_from(grouped, tiny, tmp_path, monkeypatch):
    options = ["--folds", "1", "--epochs", "1", "--restart-from", str(grouped.path.parents[1])]
    with pytest.raises(InputError, match="has different groups from this run's"):
        run(monkeypatch, tiny, tmp_path, *options, *LAYER)
    with pytest.raises(InputError, match="a different --group-layer: use the same here"):
        run(monkeypatch, tiny, tmp_path, *options)


def test_a_stopped_run_resumes_to_the_same_metrics(grouped, tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--keep", "3", *LAYER)
    folder = RunFolder(run_folder(tmp_path))
    folder.checkpoints[-1].unlink()
    for split in ("oof", "dev", "test"):
        folder.predictions(split).unlink()
    with pytest.raises(InputError, match="group_layer was speaker, now None"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--keep", "3", "--resume")
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--keep", "3", "--resume", *LAYER)
    assert metrics(folder.path) == metrics(grouped.path)


def test_a_warm_restart_and_a_guide(grouped, undisturbed, tiny, tmp_path, monkeypatch):
    source = ("--restart-from", str(grouped.path.parents[1]))
    with pytest.raises(InputError, match="was trained with a different --group-layer"):
        run(monkeypatch, tiny, tmp_path / "none", "--epochs", "1", *source)
    guide = ("--guide", str(grouped.path))
    assert run(monkeypatch, tiny, tmp_path / "both", "--epochs", "1", *source, *guide, *LAYER) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--group-layer", "day"), "--group-layer day: the groups of these data are speakers: pass speaker"),
        (("--group-softsign",), "--group-softsign: there is no group layer: pass --group-layer"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1", *options)
    assert not list(tmp_path.iterdir())
