"""The cache: what is packed is what was written, and its name is that of the contents."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from competition_files import same_data
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from folds.competition.alphabets import F22, Alphabet
from folds.competition.base import COMPETITIONS
from folds.data import cache as cache_module
from folds.data.cache import cache_folder, load_dataset
from folds.data.dataset import Dataset, too_short
from registry.errors import InputError


def _normalised(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return (wide - wide.mean(axis=0)) / (wide.std(axis=0) + 1e-8)


_lengths = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=6)


@given(
    lengths=st.tuples(_lengths, _lengths, _lengths),
    dimension=st.integers(1, 5),
    dtype=st.sampled_from(["<f4", "<f8", "<f2"]),
    names=st.permutations(["10-2-0001", "10-2-0000", "9-12-0000", "101-2-0007", "5-5-5", "1000-1-0010"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=25)
def test_reading_gives_back_what_was_packed(lengths, dimension, dtype, names, seed, write_split):
    random = np.random.default_rng(seed)
    splits = {}
    for split, sizes in zip(("train-clean-100", "dev-clean", "test-clean"), lengths, strict=True):
        splits[split] = {
            name: (
                random.normal(size=(frames, dimension), scale=9, loc=4).astype(dtype),
                None if split == "test-clean" else [F22.phonemes[k] for k in random.integers(1, 41, size=labels)],
            )
            for name, (frames, labels) in zip(names, sizes, strict=False)
        }
    with tempfile.TemporaryDirectory() as folder:
        for split, utterances in splits.items():
            write_split(Path(folder, split), utterances)
        dataset = load_dataset(Path(folder), Path(folder, "cache"))
        again = load_dataset(Path(folder), Path(folder, "cache"))
    assert same_data(dataset, again)
    assert dataset.features == dimension
    for split, utterances in zip((dataset.train, dataset.dev, dataset.test), splits.values(), strict=True):
        assert split.ids == tuple(sorted(utterances))
        assert len(split) == len(utterances)
        assert split.groups == tuple(name.split("-")[0] for name in sorted(utterances))
        assert split.frames.values.dtype == np.float32
        assert split.frames.values.shape == (split.frames.offsets[-1], dimension)
        for index, name in enumerate(split.ids):
            features, phonemes = utterances[name]
            assert split.lengths[index] == len(features)
            np.testing.assert_allclose(split.features(index), _normalised(features), rtol=1e-5, atol=1e-5)
            if phonemes is not None:
                assert [F22.phonemes[token] for token in split.labels(index)] == phonemes
                assert split.labels(index).dtype == np.int16
    assert dataset.test.tokens is None
    with pytest.raises(ValueError, match="the test split has no transcripts"):
        dataset.test.labels(0)


def test_a_constant_feature_becomes_zero(small: Path, tmp_path: Path):
    path = small / "dev-clean" / "mfcc" / "20-1-0000.npy"
    features = np.load(path)
    features[:, 1] = 0.1
    np.save(path, features)
    np.testing.assert_allclose(load_dataset(small, tmp_path / "cache").dev.features(0)[:, 1], 0, atol=1e-6)


def test_header_and_rows_follow_the_sample(small: Path, tmp_path: Path):
    (small / "test-clean" / "random_submission.csv").write_text("id,predictions\n1,-\n0,-\n")
    dataset = load_dataset(small, tmp_path / "cache")
    assert dataset.header == ("id", "predictions")
    assert dataset.sample_ids == ["1", "0"]
    assert dataset.test.ids == ("30-1-0001", "30-1-0000")
    assert dataset.test.lengths.tolist() == [7, 8]


def test_the_cache_is_keyed_by_the_data(small: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    first = load_dataset(small, cache)
    made = first.path.stat().st_mtime_ns
    assert load_dataset(small, cache).path.stat().st_mtime_ns == made
    path = small / "dev-clean" / "mfcc" / "20-1-0000.npy"
    np.save(path, np.ones((6, 3), dtype=np.float32))
    second = load_dataset(small, cache)
    assert second.path != first.path
    assert second.dev.lengths.tolist() == [6] and first.dev.lengths.tolist() == [5]
    os.utime(path, ns=(1, 1))
    third = load_dataset(small, cache)
    assert third.path != second.path and same_data(third, second)


def test_another_order_of_the_samples_rows_is_that_of_the_features(small: Path, tmp_path: Path):
    """The files are the same."""
    before = load_dataset(small, tmp_path / "cache")
    (small / "test-clean" / "random_submission.csv").write_text("index,label\n1,-\n0,-\n")
    after = load_dataset(small, tmp_path / "cache")
    assert after.test.ids == before.test.ids[::-1]
    for row in (0, 1):
        np.testing.assert_array_equal(after.test.features(row), before.test.features(1 - row))


def test_classes_are_those_of_the_alphabet(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache with the classes of another one is not read."""
    before = load_dataset(small, tmp_path / "cache").train.labels(1)
    reverse = Alphabet("reverse", ("", *F22.phonemes[:0:-1]), ("", *F22.characters[:0:-1]))
    monkeypatch.setattr(COMPETITIONS.get("F22-S26"), "alphabet", reverse)
    after = load_dataset(small, tmp_path / "cache").train.labels(1)
    assert reverse.to_string(after) == F22.to_string(before) and after.tolist() != before.tolist()


def test_the_hash_is_of_the_contents(small: Path, tmp_path: Path):
    first = load_dataset(small, tmp_path / "cache")
    moved = small.rename(tmp_path / "moved")
    for path in moved.rglob("*.npy"):
        os.utime(path, ns=(1, 1))
    assert load_dataset(moved, tmp_path / "elsewhere").hash == first.hash
    hashes = [first.hash]
    np.save(moved / "dev-clean" / "transcript" / "20-1-0000.npy", np.array(["[SOS]", "S", "IH", "[EOS]"]))
    hashes.append(load_dataset(moved, tmp_path / "elsewhere").hash)
    np.save(moved / "dev-clean" / "mfcc" / "20-1-0000.npy", np.ones((6, 3)))
    hashes.append(load_dataset(moved, tmp_path / "elsewhere").hash)
    last = moved / "test-clean" / "mfcc" / "30-1-0001.npy"
    last.rename(last.with_name("30-1-0002.npy"))
    hashes.append(load_dataset(moved, tmp_path / "elsewhere").hash)
    assert len(set(hashes)) == 4


def test_smoothing_by_a_whole_number_is_that_by_a_fraction(small: Path, tmp_path: Path):
    """In Python, users may pass 2 where the command line has 2.0; a run knows its data by their hash."""
    one, other = (load_dataset(small, tmp_path / "cache", smooth=smooth) for smooth in (2, 2.0))
    assert one.hash == other.hash and one.path == other.path


def test_features_are_mapped_and_read_only(small: Path, tmp_path: Path):
    frames = load_dataset(small, tmp_path / "cache").train.frames.values
    base = frames
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert base is not None
    with pytest.raises(ValueError, match="read-only"):
        frames[0, 0] = 1


def test_the_cache_is_plain_safetensors(small: Path, tmp_path: Path):
    dataset = load_dataset(small, tmp_path / "cache")
    with safe_open(dataset.path, "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("train.frames"), dataset.train.frames.values)
        np.testing.assert_array_equal(file.get_tensor("dev.tokens"), dataset.dev.tokens.values)
        np.testing.assert_array_equal(file.get_tensor("test.offsets"), dataset.test.frames.offsets)


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(Path("other")) == Path("other")
    monkeypatch.delenv("HW3P2_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hw3p2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hw3p2"


def test_a_corrected_reader_makes_the_cache_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the same features, the data are the same."""
    before = load_dataset(small, tmp_path / "cache")
    monkeypatch.setattr(cache_module, "_source_hash", lambda kind: "corrected")
    again = load_dataset(small, tmp_path / "cache")
    assert again.path != before.path
    assert (again.hash, again.features_hash) == (before.hash, before.features_hash)


def test_a_class_made_at_a_prompt_has_no_source():
    made = type("Made", (), {"__module__": "no_module"})  # as where the main module has no file
    assert cache_module._source_hash(made) == ""
    assert len(cache_module._source_hash(Dataset)) == 64


def test_other_features_of_the_same_shapes_have_another_hash(small: Path, tmp_path: Path):
    before = load_dataset(small, tmp_path / "cache")
    file = sorted(small.glob("dev-clean/mfcc/*.npy"))[0]
    np.save(file, np.load(file) * 2)
    again = load_dataset(small, tmp_path / "cache")
    assert again.hash == before.hash and again.features_hash != before.features_hash


def test_array_formats_through_the_cache(tmp_path: Path):
    for split in ("train", "dev", "test"):
        elements = np.empty(2, dtype=object)
        elements[:] = [np.arange(8.0).reshape(4, 2), np.ones((5, 2))]
        np.save(tmp_path / f"{split}.npy", elements, allow_pickle=True)
        if split != "test":
            np.save(tmp_path / f"{split}_labels.npy", np.array([[1, 2], [3, 4]]))
    with pytest.raises(InputError, match="pass --allow-pickle"):
        load_dataset(tmp_path, tmp_path / "cache")
    dataset = load_dataset(tmp_path, tmp_path / "cache", allow_pickle=True)
    assert dataset.train.lengths.tolist() == [4, 5] and dataset.train.labels(1).tolist() == [3, 4]
    np.testing.assert_allclose(dataset.test.features(0), _normalised(np.arange(8.0).reshape(4, 2)), atol=1e-5)
    # No speaker is named, so each utterance counts as its own.
    assert len(set(dataset.train.groups)) == 2


@pytest.mark.real
def test_the_stand_in(mini: Path):
    dataset = load_dataset(mini)
    assert [len(split) for split in (dataset.train, dataset.dev, dataset.test)] == [4291, 483, 585]
    assert (dataset.features, dataset.format, dataset.header) == (13, "F22-S26", ("index", "label"))
    assert len(set(dataset.train.groups)) == 200 and not set(dataset.train.groups) & set(dataset.dev.groups)
    assert dataset.sample_ids == [str(row) for row in range(585)]
    assert list(dataset.test.ids) == sorted(dataset.test.ids)
    assert dataset.alphabet.to_string(dataset.train.labels(0)).startswith("-")
    assert len(too_short(dataset.train, dataset.train.lengths)) == 0
    started = time.process_time()
    load_dataset(mini)
    assert time.process_time() - started < 1
