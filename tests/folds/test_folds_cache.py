"""The cache: what is packed is what was written, damage is noticed, and bad data leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from folds.competition.alphabets import F22
from folds.data import cache as cache_module
from folds.data import packed_file as packed
from folds.data.cache import cache_folder, load_dataset
from folds.data.dataset import Dataset, Split, ctc_frames, too_short
from folds.data.packed_file import PackWriter, open_packed
from folds.store.ragged import Ragged
from registry.errors import InputError
from registry.processes import this_process

ROOT = Path(__file__).parents[2]


def _normalised(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return (wide - wide.mean(axis=0)) / (wide.std(axis=0) + 1e-8)


def _same(a: Dataset, b: Dataset) -> bool:
    return a.hash == b.hash and all(
        one.ids == two.ids and _equal(one.frames, two.frames) and _equal(one.tokens, two.tokens)
        for one, two in zip((a.train, a.dev, a.test), (b.train, b.dev, b.test), strict=True)
    )


def _equal(a: Ragged | None, b: Ragged | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a.values, b.values) and np.array_equal(a.offsets, b.offsets)


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
    assert _same(dataset, again)
    assert dataset.features == dimension
    for split, utterances in zip((dataset.train, dataset.dev, dataset.test), splits.values(), strict=True):
        assert split.ids == tuple(sorted(utterances))
        assert len(split) == len(utterances)
        assert split.speakers == [name.split("-")[0] for name in sorted(utterances)]
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
    assert third.path != second.path and _same(third, second)


def test_the_hash_is_of_the_contents(small: Path, tmp_path: Path):
    first = load_dataset(small, tmp_path / "cache")
    moved = small.rename(tmp_path / "moved")
    for path in moved.rglob("*.npy"):
        os.utime(path, ns=(1, 1))
    assert load_dataset(moved, tmp_path / "elsewhere").hash == first.hash
    path = moved / "dev-clean" / "transcript" / "20-1-0000.npy"
    np.save(path, np.array(["[SOS]", "S", "IH", "[EOS]"]))
    assert load_dataset(moved, tmp_path / "elsewhere").hash != first.hash


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


# Damage


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_any_damage_to_a_small_file_is_noticed(data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        frames = np.arange(30, dtype="<f4").reshape(10, 3)
        with open(path, "wb") as file:
            writer = PackWriter(file)
            writer.stream(frames[:4])
            writer.stream(frames[4:])
            writer.name("frames", (10, 3))
            writer.finish({"odd": np.arange(3, dtype="<i2"), "offsets": np.array([0, 4, 10], dtype="<i8")})
        tensors = open_packed(path)
        assert sorted(tensors) == ["frames", "odd", "offsets"]
        np.testing.assert_array_equal(tensors["frames"], frames)
        assert tensors["offsets"].tolist() == [0, 4, 10]
        whole = path.read_bytes()
        if data.draw(st.booleans(), label="cut"):
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        else:
            # The spaces that pad the header do not matter; every other byte does.
            at = data.draw(st.one_of(st.integers(0, 300), st.integers(packed._HEADER, len(whole) - 1)))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        assert open_packed(path) is None


def test_chunks_over_the_whole_file_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_CHUNK", 64)
    frames = np.arange(16 * 20 - 5, dtype="<f4")
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        writer = PackWriter(file)
        for part in np.array_split(frames, 7):
            writer.stream(part)
        writer.name("frames", frames.shape)
        writer.finish({})
    np.testing.assert_array_equal(open_packed(path)["frames"], frames)
    whole = path.read_bytes()
    for chunk in range(20):
        at = packed._HEADER + 64 * chunk + 7
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert open_packed(path) is None
    path.write_bytes(whole + b"x")
    assert open_packed(path) is None


@pytest.mark.parametrize("damage", [b"", b"\xff" * 5000, b"{}", "cut", "flip"])
def test_a_damaged_cache_is_made_again(small: Path, tmp_path: Path, damage):
    first = load_dataset(small, tmp_path / "cache")
    whole = first.path.read_bytes()
    if damage == "cut":
        damage = whole[:-3]
    elif damage == "flip":
        damage = whole[:4100] + bytes([whole[4100] ^ 1]) + whole[4101:]
    first.path.unlink()
    first.path.write_bytes(damage)
    second = load_dataset(small, tmp_path / "cache")
    assert _same(second, load_dataset(small, tmp_path / "other"))
    assert second.path.read_bytes() == whole


_CHILD = """
import sys; from pathlib import Path; from folds.data.cache import load_dataset
dataset = load_dataset(Path(sys.argv[1]), Path(sys.argv[2]))
print(dataset.hash, float(abs(dataset.train.frames.values).sum()))
"""


def test_processes_that_pack_at_once(small: Path, tmp_path: Path):
    command = [sys.executable, "-c", _CHILD, str(small), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {child.communicate(timeout=120)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(answers) == 1
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.rsplit(".", 1)[1] for name in names] == ["safetensors", "lock"]


def test_what_a_killed_packer_left_is_removed(small: Path, tmp_path: Path):
    """And not what one on another machine, which locks of some file systems do not exclude, is writing."""
    path = load_dataset(small, tmp_path / "cache").path
    path.unlink()
    here = this_process()
    kept = f".{path.name}.{'0' * 12}-{here.pid}-{here.started}.abc123.tmp"
    (path.parent / f".{path.name}.{here.machine}-{2**22 + 1}-1.abc123.tmp").write_bytes(b"torn")
    (path.parent / kept).write_bytes(b"another's")
    load_dataset(small, tmp_path / "cache")
    assert [file.name for file in path.parent.glob(".*")] == [kept]


def test_a_file_system_without_locks_has_no_process_wait(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that stood for the lock would stay behind a process that is killed on another machine."""

    def not_there(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", not_there)
    path = load_dataset(small, tmp_path / "cache").path
    assert path.exists() and not list(path.parent.glob("*.lock"))[1:]
    assert load_dataset(small, tmp_path / "cache", smooth=1.0).path.exists()


def test_the_first_of_two_whole_caches_stays(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another machine may be reading it: a network drive forgets a file that is replaced."""
    path = load_dataset(small, tmp_path / "first").path
    finish = PackWriter.finish

    def after_another(writer: PackWriter, tensors: dict) -> None:
        finish(writer, tensors)
        shutil.copy(path, tmp_path / "cache" / path.name)
        inodes.append((tmp_path / "cache" / path.name).stat().st_ino)

    inodes: list[int] = []
    monkeypatch.setattr(PackWriter, "finish", after_another)
    again = load_dataset(small, tmp_path / "cache")
    assert [again.path.stat().st_ino] == inodes
    assert sorted(file.name for file in again.path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_process_that_waits_says_so(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    path = load_dataset(small, tmp_path / "cache").path
    path.unlink()
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.05)
    other = open(f"{path}.lock", "w")  # noqa: SIM115 - closed by the timer
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(0.5, other.close).start()
    load_dataset(small, tmp_path / "cache", progress=False)
    assert capsys.readouterr().err == f"waiting for the process that is packing the features into {path}\n"


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


def test_a_cache_that_cannot_be_written(small: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be cached there \(.*\); expected a writable folder; set HW3P2_CACHE"):
        load_dataset(small, tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can make files")
def test_a_cache_folder_that_takes_no_files_is_not_waited_for(small: Path):
    with pytest.raises(InputError, match=r"/proc: the features cannot be cached there"):
        load_dataset(small, Path("/proc"))


# Bad input: one line each, and no cache


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
    assert len(set(dataset.train.speakers)) == 2


# The length rule


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


@pytest.mark.real
def test_the_stand_in(mini: Path):
    dataset = load_dataset(mini)
    assert [len(split) for split in (dataset.train, dataset.dev, dataset.test)] == [4291, 483, 585]
    assert (dataset.features, dataset.format, dataset.header) == (13, "F22-S26", ("index", "label"))
    assert len(set(dataset.train.speakers)) == 200 and not set(dataset.train.speakers) & set(dataset.dev.speakers)
    assert dataset.sample_ids == [str(row) for row in range(585)]
    assert list(dataset.test.ids) == sorted(dataset.test.ids)
    assert dataset.alphabet.to_string(dataset.train.labels(0)).startswith("-")
    assert len(too_short(dataset.train, dataset.train.lengths)) == 0
    started = time.process_time()
    load_dataset(mini)
    assert time.process_time() - started < 1
