"""Layouts with one array per split: what is read is what was written, and every fault is reported in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from competition_files import save_object_array

from folds.competition.alphabets import F18, F20
from folds.competition.detect import open_competition
from registry.errors import InputError


@pytest.fixture
def f20(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    features = {split: [random.normal(size=(k + 3, 2)) for k in range(3)] for split in ("train", "dev", "test")}
    for split, elements in features.items():
        save_object_array(tmp_path / f"{split}.npy", elements)
    save_object_array(tmp_path / "train_labels.npy", [np.array([1, 41]), np.array([3]), np.array([5, 5, 7])])
    save_object_array(tmp_path / "dev_labels.npy", [[1], [2, 2], [41]])
    return tmp_path


def test_f20(f20: Path):
    competition = open_competition(f20, allow_pickle=True)
    assert (competition.format, competition.header, competition.alphabet) == ("F20-F21", ("id", "label"), F20)
    assert [competition.train.labels(k).tolist() for k in range(3)] == [[1, 41], [3], [5, 5, 7]]
    assert [competition.dev.labels(k).tolist() for k in range(3)] == [[1], [2, 2], [41]]
    assert competition.train.labels(0).dtype == np.int16
    assert [competition.test.features(k).shape for k in range(3)] == [(3, 2), (4, 2), (5, 2)]
    assert competition.train.ids == ("train000000", "train000001", "train000002")


def test_object_arrays_need_permission(f20: Path):
    competition = open_competition(f20)
    for read in (competition.train.features, competition.train.labels):
        with pytest.raises(InputError, match=r"train(_labels)?\.npy: an object array.*any code.*pass --allow-pickle"):
            read(0)


def test_equal_lengths_need_no_pickle(f20: Path):
    for name in ("train", "dev", "test"):
        np.save(f20 / f"{name}.npy", np.ones((2, 5, 4), dtype=np.float32))
    for name in ("train_labels", "dev_labels"):
        np.save(f20 / f"{name}.npy", np.array([[1, 2], [3, 4]]))
    competition = open_competition(f20)
    assert competition.train.features(1).shape == (5, 4)
    assert competition.train.labels(1).tolist() == [3, 4]
    # The same lengths as an object array: numpy stacks the single numbers.
    np.save(f20 / "dev.npy", np.ones((2, 5, 4)).astype(object), allow_pickle=True)
    np.save(f20 / "dev_labels.npy", np.array([[1, 2], [3, 4]], dtype=object), allow_pickle=True)
    competition = open_competition(f20, allow_pickle=True)
    assert competition.dev.features(0).dtype == np.float32
    assert competition.dev.labels(0).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "utterance 1: label 0; expected 1 to 41, the phonemes of F20-F21"),
        ([42], "utterance 1: label 42; expected 1 to 41"),
        ([1.5], r"utterance 1: found shape \(1,\) of float64; expected a list of whole numbers"),
        (["AA"], r"utterance 1: found shape \(1,\) of <U2; expected a list of whole numbers"),
    ],
)
def test_wrong_labels(f20: Path, labels: list, message: str):
    save_object_array(f20 / "dev_labels.npy", [[1], labels, [1]])
    with pytest.raises(InputError, match=r"dev_labels\.npy, " + message):
        open_competition(f20, allow_pickle=True).dev.labels(1)


def test_faults_of_whole_arrays(f20: Path):
    save_object_array(f20 / "dev_labels.npy", [[1], [2]])
    with pytest.raises(InputError, match=r"dev_labels\.npy: 2 transcripts for the 3 utterances of dev\.npy"):
        open_competition(f20, allow_pickle=True)
    whole = (f20 / "dev.npy").read_bytes()
    save_object_array(f20 / "dev_labels.npy", [[1], [2], [3]])
    (f20 / "dev.npy").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"dev\.npy: damaged \(.*\); expected an object array"):
        open_competition(f20, allow_pickle=True).dev.features(0)
    np.save(f20 / "dev.npy", np.float32(3))
    with pytest.raises(InputError, match=r"dev\.npy: found shape \(\); expected one element per utterance"):
        open_competition(f20, allow_pickle=True)
    (f20 / "dev_labels.npy").unlink()
    with pytest.raises(InputError, match=r"no file .*dev_labels\.npy: expected it beside the others"):
        open_competition(f20, allow_pickle=True)


def test_f18(tmp_path: Path):
    save_object_array(tmp_path / "wsj0_train.npy", [np.ones((4, 40)), np.ones((5, 40))])
    (tmp_path / "wsj0_train.npy").rename(tmp_path / "wsj0_train")
    save_object_array(tmp_path / "wsj0_train_merged_labels.npy", [np.array([0, 45]), np.array([36])])
    save_object_array(tmp_path / "wsj0_dev.npy", [np.ones((4, 40)), np.ones((5, 40))])
    save_object_array(tmp_path / "wsj0_dev_merged_labels.npy", [np.array([46]), np.array([1])])
    save_object_array(tmp_path / "transformed_test_data.npy", [np.ones((6, 40)), np.ones((5, 40))])
    competition = open_competition(tmp_path, allow_pickle=True)
    assert (competition.format, competition.header, competition.alphabet) == ("F18-S20", ("Id", "Predicted"), F18)
    assert F18.to_string(competition.train.labels(0)) == "_Z"
    assert F18.to_string(competition.train.labels(1)) == "."
    assert competition.train.features(1).shape == (5, 40)
    assert competition.test.features(0).shape == (6, 40)
    with pytest.raises(InputError, match="label 46; expected 0 to 45"):
        competition.dev.labels(0)
