"""Data, folds and training on the stand-in competition: real files, real sizes, real speakers."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from folds import train
from folds.data.batches import padding_share, plan
from folds.data.cache import load_dataset
from folds.data.dataset import too_short
from folds.data.speaker_folds import speaker_folds
from folds.store.fold_model import find_fold_models

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def dataset(mini):
    return load_dataset(mini)


def test_the_data_are_as_their_readme_describes_them(dataset):
    assert [len(split) for split in (dataset.train, dataset.dev, dataset.test)] == [4291, 483, 585]
    speakers = [set(split.groups) for split in (dataset.train, dataset.dev, dataset.test)]
    assert [len(names) for names in speakers] == [200, 25, 25] and not speakers[0] & speakers[1]
    assert (dataset.features, dataset.alphabet.classes, dataset.header) == (13, 41, ("index", "label"))
    assert dataset.train.lengths.sum() / 360_000 == pytest.approx(7.3, abs=0.05)
    assert float(dataset.train.features(0).mean()) == pytest.approx(0, abs=1e-5)


def test_folds_are_speaker_disjoint_and_of_equal_time(dataset):
    fold_of = speaker_folds(dataset.train, 5)
    frames = np.bincount(fold_of, weights=dataset.train.lengths)
    assert frames.max() / frames.min() < 1.02
    assert len({(s, f) for s, f in zip(dataset.train.groups, fold_of.tolist(), strict=True)}) == 200


def test_batches_waste_little(dataset):
    lengths = dataset.train.lengths
    assert padding_share(lengths, plan(lengths, frames=16_000, seed=0, epoch=1)) < 0.05


def test_every_utterance_fits_at_stride_four_and_not_at_eight(dataset):
    lengths = dataset.train.lengths
    assert len(too_short(dataset.train, -(-lengths // 4))) == 0
    assert len(too_short(dataset.train, -(-lengths // 8))) == 421


def test_a_few_steps_write_a_complete_fold_model(mini, tmp_path, monkeypatch):
    size = ["--channels", "16", "16", "--hidden", "12", "--layers", "1", "--epochs", "1", "--limit", "60"]
    arguments = ["--data", str(mini), "--runs", str(tmp_path), "--model", "lstm_small", "--fold", "3", *size]
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    train.main()
    (fold_model,) = find_fold_models(tmp_path)
    utterances = {split: len(fold_model.load(split)) for split in ("oof", "dev", "test")}
    assert 800 < utterances["oof"] < 920 and (utterances["dev"], utterances["test"]) == (483, 585)
    assert fold_model.recorded["options"]["recipe"]["limit"] == 60
