"""Faulty features and transcripts: one line each, and no cache; utterances that are too short for their labels."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folds.data.cache import load_dataset
from folds.data.dataset import Split, ctc_frames, too_short
from folds.data.validation import checked_features
from folds.store.ragged import Ragged
from registry.errors import InputError


def _features(array) -> dict:
    return {"train-clean-100/mfcc/10-1-0001.npy": np.asarray(array)}


def _transcript(words, dtype=None) -> dict:
    return {"train-clean-100/transcript/10-1-0001.npy": np.array(words, dtype=dtype)}


_NAN = np.ones((4, 3), dtype=np.float32)
_NAN[2, 1] = np.nan
_INF = np.ones((4, 3), dtype=np.float32)
_INF[0, 2] = -np.inf


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (_features(_NAN), "mfcc/10-1-0001.npy: nan at frame 2, feature 1; expected finite numbers; write the file"),
        (_features(_INF), "mfcc/10-1-0001.npy: -inf at frame 0, feature 2; expected finite numbers"),
        (_features(np.ones((0, 3))), "mfcc/10-1-0001.npy: an empty array (0, 3); expected at least one frame"),
        (_features(np.ones(5)), "10-1-0001.npy: found shape (5,) of float64; expected floating-point features"),
        (_features(np.ones((5, 3), dtype=np.int32)), "10-1-0001.npy: found shape (5, 3) of int32; expected floating"),
        (_features(np.ones((5, 4))), "10-1-0001.npy: 4 features per frame; expected 3 as in 5 other files; remove it"),
        (_features(np.ones((5, 3), dtype=object)), "mfcc/10-1-0001.npy: an object array, which must be unpickled"),
        (_transcript(["[SOS]", "AA", "QQ", "[EOS]"]), "transcript/10-1-0001.npy: unknown phoneme 'QQ': expected one"),
        (_transcript(["[SOS]", "[EOS]"]), "10-1-0001.npy: its transcript is empty; expected at least one phoneme"),
        (_transcript([], "<U5"), "10-1-0001.npy: its transcript is empty"),
        (_transcript([1, 2]), "transcript/10-1-0001.npy: found shape (2,) of int64; expected a list of strings, [SOS]"),
        (_transcript([["AA"]]), "transcript/10-1-0001.npy: found shape (1, 1) of <U2; expected a list of strings"),
        (_transcript(["AA"], object), "transcript/10-1-0001.npy: an object array, which must be unpickled"),
    ],
)
def test_one_bad_file(small: Path, tmp_path: Path, files: dict, message: str):
    for name, array in files.items():
        np.save(small / name, array, allow_pickle=True)
    with pytest.raises(InputError) as error:
        load_dataset(small, tmp_path / "cache", progress=False)
    assert message in str(error.value)
    assert "\n" not in str(error.value) and "more" not in str(error.value).replace("one or more", "")
    assert not list((tmp_path / "cache").glob("*.safetensors")) and not list((tmp_path / "cache").glob(".*"))


def test_of_several_bad_files_the_first_is_named(small: Path, tmp_path: Path):
    np.save(small / "train-clean-100/mfcc/10-1-0001.npy", _NAN)
    (small / "train-clean-100/mfcc/9-1-0000.npy").write_bytes(b"junk")
    np.save(small / "test-clean/mfcc/30-1-0000.npy", np.ones((4, 7)))
    with pytest.raises(InputError, match=r"10-1-0001\.npy: nan at .* \(and 2 more faults\)$"):
        load_dataset(small, tmp_path / "cache")


def test_the_odd_dimension_is_named_even_if_it_comes_first(small: Path, tmp_path: Path):
    np.save(small / "train-clean-100/mfcc/10-1-0000.npy", np.ones((9, 28)))
    np.save(small / "test-clean/mfcc/30-1-0001.npy", np.ones((9, 28)))
    message = r"10-1-0000\.npy: 28 features per frame \(and 1 more that differ\); expected 3"
    with pytest.raises(InputError, match=message):
        load_dataset(small, tmp_path / "cache")


@given(
    labels=st.lists(st.lists(st.integers(1, 3), max_size=6), max_size=8),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_too_short_is_labels_plus_repeats(labels: list[list[int]], data: st.DataObject):
    frames = np.array([data.draw(st.integers(0, 12)) for _ in labels])
    tokens = Ragged.of(labels, np.int16)
    split = Split("train", tuple(map(str, range(len(labels)))), Ragged(np.zeros((0, 1)), tokens.offsets), tokens)
    needed = [len(label) + sum(a == b for a, b in itertools.pairwise(label)) for label in labels]
    expected = [index for index, need in enumerate(needed) if frames[index] < need]
    assert ctc_frames(tokens).tolist() == needed
    assert too_short(split, frames).tolist() == expected


def test_too_short_needs_one_length_per_utterance(small: Path, tmp_path: Path):
    dataset = load_dataset(small, tmp_path / "cache")
    with pytest.raises(ValueError, match="train: needs transcripts and 3 output lengths"):
        too_short(dataset.train, np.array([1, 2]))
    with pytest.raises(ValueError, match="test: needs transcripts"):
        too_short(dataset.test, np.array([1, 2]))


@pytest.mark.parametrize("value", [-2e9, 2e9])
def test_a_feature_too_large_in_absolute_value_is_refused(value: float):
    features = np.ones((4, 3))
    features[1, 2] = value
    with pytest.raises(InputError, match=r"x: a feature of 2e\+09; expected at most 1e\+09"):
        checked_features(features, "x")


def test_features_of_extended_precision_become_float64():
    """The packed file and the sums of squares know no other type."""
    checked = checked_features(np.ones((4, 3), np.longdouble), "x")
    assert checked.dtype == np.float64 and (checked == 1).all()
