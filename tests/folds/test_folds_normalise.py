"""Normalisation by group, and smoothing: the cache's numbers turned into those that raw features would give."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from training_runs import run, run_folder

import models
from folds.data.cache import load_dataset
from folds.data.dataset import joined
from folds.data.renormalized import dataset_as_read, renormalized
from folds.store.fold_model import read_fold_model
from folds.store.ragged import Ragged
from folds.store.run_folder import RunFolder
from models.features import FeatureTransform, group_moments, moments, normalize
from registry import InputError


@pytest.fixture(scope="module")
def raw(tiny):
    """The features of each training utterance as the data have them."""
    return {path.stem: np.load(path) for path in (tiny / "train-clean-100" / "mfcc").glob("*.npy")}


def test_the_moments_of_a_group_are_those_of_all_its_frames():
    random = np.random.default_rng(0)
    parts = [random.normal(1000 * index, 1 + index, size=(length, 3)) for index, length in enumerate((4, 1, 9, 5))]
    groups = ("b", "a", "b", "a")
    of_each = [moments(part) for part in parts]
    means, deviations = (np.stack(column) for column in zip(*of_each, strict=True))
    found = group_moments(np.array([4, 1, 9, 5]), means, deviations, groups)
    for row, group in enumerate(groups):
        frames = np.concatenate([part for part, name in zip(parts, groups, strict=True) if name == group])
        np.testing.assert_allclose(found[0][row], frames.mean(axis=0))
        np.testing.assert_allclose(found[1][row], frames.std(axis=0))


def test_a_groups_frames_have_mean_0_and_variance_1_and_its_utterances_need_not(dataset):
    split = renormalized(dataset.train, "group")
    for group in set(split.groups):
        own = [split.features(row) for row in range(len(split)) if split.groups[row] == group]
        frames = np.concatenate(own)
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-5)
        assert max(np.abs(part.mean(axis=0)).max() for part in own) > 0.1


@pytest.mark.parametrize(
    "transform", [FeatureTransform("group"), FeatureTransform("none"), FeatureTransform("group", smooth=2.0)]
)
def test_the_cache_gives_what_raw_features_give(transform, tiny, raw):
    split = renormalized(load_dataset(tiny, smooth=transform.smooth).train, transform.normalization)
    expected = transform.apply([raw[utterance] for utterance in split.ids], split.groups)
    for row, features in enumerate(expected):
        assert split.features(row).dtype == features.dtype == np.float32
        np.testing.assert_allclose(split.features(row), features, atol=2e-5)


def test_smoothing_is_a_weighted_mean_of_frames_around():
    x = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    (found,) = FeatureTransform("none", smooth=1.0).apply([x])
    padded = np.pad(x.astype(np.float64), ((10, 10), (0, 0)), mode="symmetric")
    for t in range(30):
        weights = np.exp(-0.5 * np.arange(-10, 11) ** 2.0)
        np.testing.assert_allclose(found[t], weights @ padded[t : t + 21] / weights.sum(), atol=2e-3)


def test_the_default_is_the_cache_as_it_is(dataset):
    assert renormalized(dataset.train, "utterance") is dataset.train
    x = np.random.default_rng(2).normal(size=(7, 3))
    for transform, groups in ((FeatureTransform(), ("a",)), (FeatureTransform("group"), ())):
        assert np.array_equal(transform.apply([x], groups)[0], normalize(x))


def test_a_constant_feature_becomes_0():
    x = np.full((5, 2), 7.25)
    for transform in (FeatureTransform(), FeatureTransform("group")):
        assert not transform.apply([x, x], ("a", "a"))[1].any()


def test_a_feature_that_is_constant_in_a_whole_group_becomes_0(dataset):
    """Its deviation is 0 in every utterance, and in the group."""
    train = dataset.train
    means, deviations = (moment.copy() for moment in train.moments)
    values = train.frames.values.copy()
    means[:, 0], deviations[:, 0], values[:, 0] = 7.25, 0, 0
    constant = dataclasses.replace(train, frames=Ragged(values, train.frames.offsets), moments=(means, deviations))
    split = renormalized(constant, "group")
    for row in range(len(split)):
        np.testing.assert_allclose(split.features(row)[:, 0], 0, atol=1e-6)


def test_joined_splits_keep_what_was_done_to_each(dataset):
    changed = dataset_as_read(dataset, FeatureTransform("group"))
    both = joined(changed.train, changed.dev)
    assert len(both) == len(dataset.train) + len(dataset.dev)
    for row in (0, len(dataset.train) - 1):
        assert np.array_equal(both.features(row), changed.train.features(row))
    assert np.array_equal(both.features(len(dataset.train) + 2), changed.dev.features(2))


def test_a_run_predicts_with_the_features_it_was_trained_with(dataset, tiny, tmp_path, monkeypatch):
    options = ("--normalise", "group", "--smooth", "0.8")
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", *options)
    folder = RunFolder(run_folder(tmp_path))
    fold_model, trained = read_fold_model(folder), models.load(folder.path)
    assert fold_model.transform == trained.description.transform == FeatureTransform("group", 0.8)
    dev = [np.load(path) for path in sorted((tiny / "dev-clean" / "mfcc").glob("*.npy"))]
    stored = fold_model.load("dev")
    for row, log_probs in enumerate(trained.predict(dev, dataset.dev.groups)):
        np.testing.assert_allclose(stored[row].astype(np.float32), log_probs, atol=2e-2)
    for option in ("--guide", "--restart-from"):
        source = folder.path if option == "--guide" else tmp_path
        with pytest.raises(InputError, match=f"{option} .* trained .*normalis.*: use .*the same"):
            run(monkeypatch, tiny, tmp_path / "other", "--epochs", "1", "--smooth", "0.8", option, str(source))
    folder.predictions("test").unlink()
    with pytest.raises(InputError, match="normalise was group, now utterance"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--resume", "--smooth", "0.8")


def test_wrong_values_are_refused(dataset):
    with pytest.raises(ValueError, match="normalization is 'speaker'; expected utterance or group or none"):
        FeatureTransform("speaker")
    with pytest.raises(ValueError, match="smooth is nan; expected 0 to 1000"):
        FeatureTransform(smooth=float("nan"))
    with pytest.raises(ValueError, match="of its features are not known"):
        renormalized(dataclasses.replace(dataset.train, moments=None), "group")
