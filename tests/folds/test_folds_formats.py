"""Alphabets, layouts and `.npy` files: what is read is what was written, and every fault is reported in one line."""

from __future__ import annotations

import io
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from folds.competition.alphabets import F18, F20, F22, S22, Alphabet
from folds.competition.detect import data_root, open_competition
from folds.competition.npy_files import read_array
from registry.errors import InputError

ALPHABETS = (F18, F20, S22, F22)


def _ragged(path: Path, elements: list) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    np.save(path, array, allow_pickle=True)


def _one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Alphabets


def test_alphabets_are_the_courses():
    assert [alphabet.classes for alphabet in ALPHABETS] == [47, 42, 41, 41]
    assert F22.to_string(F22.encode(["[SIL]", "NG", "AE", "AY", "IH"])) == "-G@YI"
    assert [F22.phonemes[index] for index in (1, 2, 15, 29, 40)] == ["[SIL]", "NG", "ER", "TH", "IH"]
    some = ("SIL", "AA", "AE", "AH", "AO", "AW", "Y", "ZH")
    assert [S22.characters[S22.phonemes.index(phoneme)] for phoneme in some] == [*".aAhow?Z"]
    assert (F20.phonemes[2], F20.characters[2], F18.phonemes[37], F18.characters[37]) == ("SPN", "!", "SIL", ".")
    assert len({alphabet.hash for alphabet in ALPHABETS}) == 4


@pytest.mark.parametrize("alphabet", ALPHABETS, ids=lambda alphabet: alphabet.name)
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_strings_and_classes_are_inverse(alphabet: Alphabet, data: st.DataObject):
    tokens = data.draw(st.lists(st.integers(1, alphabet.classes - 1)))
    string = alphabet.to_string(tokens)
    assert len(string) == len(tokens)
    assert alphabet.from_string(string) == tokens
    assert alphabet.encode(alphabet.phonemes[token] for token in tokens).tolist() == tokens


def test_marks_are_dropped_and_silence_is_a_label():
    assert F22.encode(["[SOS]", "[SIL]", "AA", "[SIL]", "[EOS]"]).tolist() == [1, 14, 1]
    assert S22.encode(["<sos>", "SIL", "AA", "[SIL]", "<eos>"]).tolist() == [1, 2, 1]
    assert F22.encode(["[SOS]", "[EOS]"]).dtype == np.int16


def test_unknown_phoneme_and_character():
    with pytest.raises(InputError, match=r"unknown phoneme 'XX'.*40 of alphabet F22-S26.*\[SIL\] NG F"):
        F22.encode(["AA", "XX"])
    with pytest.raises(InputError, match="unknown character '!': expected only -Gfm@.*alphabet F22-S26"):
        F22.from_string("a!")
    with pytest.raises(InputError, match="unknown character ' '"):
        S22.from_string(" ")


# Files


@given(
    array=arrays.arrays(
        dtype=st.sampled_from(["<f4", "<f8", ">f4", "<f2", "<i8", "<U5", "S3"]),
        shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=None,
    ),
    fortran=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_read_array_equals_what_was_saved(array: np.ndarray, fortran: bool):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, np.asfortranarray(array) if fortran and array.ndim else array)
        read = read_array(path)
    assert read.dtype == array.dtype and read.shape == array.shape
    np.testing.assert_array_equal(read, array)


@given(cut=st.integers(0, 128 + 8 * 6 - 1))
@settings(deadline=None, max_examples=40)
def test_a_file_cut_anywhere_is_refused(cut: int):
    stream = io.BytesIO()
    np.save(stream, np.arange(6.0).reshape(2, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        path.write_bytes(stream.getvalue()[:cut])
        with pytest.raises(InputError, match=r"x\.npy: (truncated|not a \.npy file).*copy or download it again"):
            read_array(path)


class _Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_pickles_are_not_opened(tmp_path: Path):
    mark = tmp_path / "mark"
    _ragged(tmp_path / "object.npy", [_Bomb(mark)])
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(InputError, match=r"object\.npy: an object array.*expected plain numbers"):
        read_array(tmp_path / "object.npy")
    with pytest.raises(InputError, match=r"bare\.npy: not a \.npy file"):
        read_array(tmp_path / "bare.npy")
    with pytest.raises(InputError, match=r"none\.npy: cannot be read \(No such file"):
        read_array(tmp_path / "none.npy")
    assert not mark.exists()


# Layouts with one file per utterance


def test_f22(small: Path):
    competition = open_competition(small)
    assert (competition.format, competition.alphabet, competition.header) == ("F22-S26", F22, ("index", "label"))
    assert competition.train.ids == ("10-1-0000", "10-1-0001", "9-1-0000")
    assert competition.test.ids == ("30-1-0000", "30-1-0001")
    assert competition.test_rows == ("0", "1")
    assert competition.train.labels(1).tolist() == [1, 5, 1]
    assert competition.train.features(2).shape == (4, 3)
    assert competition.train.location(2) == str(small / "train-clean-100/mfcc/9-1-0000.npy")
    assert competition.test.labels is None


@pytest.mark.parametrize("inside", ["raw", "processed"])
def test_transcripts_in_a_folder_of_their_own(small: Path, inside: str):
    for split in ("train-clean-100", "dev-clean"):
        (small / split / "transcript").rename(small / split / "moved")
        (small / split / "transcript").mkdir()
        (small / split / "moved").rename(small / split / "transcript" / inside)
    assert open_competition(small).train.labels(1).tolist() == [1, 5, 1]


def test_the_sample_may_be_beside_the_transcripts_and_sets_header_and_order(small: Path):
    (small / "test-clean" / "random_submission.csv").unlink()
    assert open_competition(small).header == ("index", "label")
    (small / "test-clean" / "transcript").mkdir()
    (small / "test-clean" / "transcript" / "random_submission.csv").write_text("id,predictions\n1,x\n0,y\n")
    competition = open_competition(small)
    assert competition.header == ("id", "predictions")
    assert competition.test_rows == ("1", "0")
    assert competition.test.ids == ("30-1-0001", "30-1-0000")
    assert [len(competition.test.features(row)) for row in range(2)] == [7, 8]
    assert "0001" in competition.test.location(0)


def test_a_sample_beside_the_layouts_folder_sets_header_and_order(small: Path):
    """As Kaggle's zip files unpack, where `--data` names the folder above."""
    (small / "test-clean" / "random_submission.csv").unlink()
    outer = small.parent / "unpacked"
    outer.mkdir()
    small.rename(outer / "HW3P2_Data")
    (outer / "sample_submission.csv").write_text("id,predictions\n1,x\n0,y\n")
    competition = open_competition(outer)
    assert competition.root == outer / "HW3P2_Data" and competition.sample is not None
    assert (competition.header, competition.test_rows) == (("id", "predictions"), ("1", "0"))
    assert competition.test.ids == ("30-1-0001", "30-1-0000")


@pytest.mark.parametrize(
    ("rows", "found"),
    [("0,a\n", "1 rows"), ("0,a\n1,b\n2,c\n", "3 rows, one with the id '2'"), ("1,a\n2,b\n", "2 rows, one with")],
)
def test_a_sample_for_other_utterances(small: Path, rows: str, found: str):
    (small / "test-clean" / "random_submission.csv").write_text(f"index,label\n{rows}")
    with pytest.raises(InputError) as error:
        open_competition(small)
    message = _one_line(error)
    assert f"random_submission.csv: {found}" in message
    assert "for 2 test utterances; expected the ids 0 to 1, each once" in message


def test_all_training_folders_count(small: Path, write_split):
    write_split(small / "train-clean-360", {"8-1-0000": (np.ones((3, 3)), ["N"])})
    assert open_competition(small).train.ids == ("10-1-0000", "10-1-0001", "9-1-0000", "8-1-0000")
    write_split(small / "train-clean-360", {"9-1-0000": (np.ones((3, 3)), ["N"])})
    with pytest.raises(InputError, match="9-1-0000 is in more than one of train-clean-100, train-clean-360"):
        open_competition(small)


def test_the_folder_the_zip_unpacks_into(small: Path, tmp_path: Path):
    small.rename(tmp_path / "outer")
    (tmp_path / "data").mkdir()
    (tmp_path / "outer").rename(tmp_path / "data" / "11785-hw3p2")
    competition = open_competition(tmp_path / "data")
    assert competition.root == tmp_path / "data" / "11785-hw3p2"
    assert len(competition.train.ids) == 3


def test_features_without_transcript_and_the_reverse(small: Path):
    for name in ("10-1-0000", "9-1-0000"):
        (small / "train-clean-100" / "transcript" / f"{name}.npy").unlink()
    with pytest.raises(InputError) as error:
        open_competition(small)
    message = _one_line(error)
    assert "train-clean-100/mfcc/10-1-0000.npy: no transcript for it (and 1 more without)" in message
    assert "expected a file of the same name in" in message and "add it, or remove this one" in message
    (small / "train-clean-100" / "mfcc" / "10-1-0000.npy").unlink()
    (small / "train-clean-100" / "mfcc" / "9-1-0000.npy").unlink()
    (small / "dev-clean" / "mfcc" / "20-1-0001.npy").write_bytes(b"")
    (small / "dev-clean" / "mfcc" / "20-1-0000.npy").rename(small / "dev-clean" / "mfcc" / "20-1-0001.npy")
    (small / "dev-clean" / "transcript" / "20-1-0001.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"dev-clean/transcript/20-1-0000\.npy: no features for it;"):
        open_competition(small)


def test_missing_folders(small: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no folder .*nowhere: expected the competition's folder, unzipped"):
        open_competition(tmp_path / "nowhere")
    for path in sorted((small / "dev-clean" / "mfcc").iterdir()):
        path.unlink()
    with pytest.raises(InputError, match=r"dev-clean/mfcc: no \.npy files in it; .*unzip the whole competition"):
        open_competition(small)
    (small / "dev-clean" / "mfcc").rmdir()
    with pytest.raises(InputError, match=r"no folder .*dev-clean/mfcc: expected \.npy files"):
        open_competition(small)


def test_unknown_and_ambiguous_layouts(small: Path, tmp_path: Path):
    (tmp_path / "else").mkdir()
    with pytest.raises(InputError) as error:
        open_competition(tmp_path / "else")
    message = _one_line(error)
    assert "no known layout" in message and "F22-S26: train-clean-100, dev-clean" in message and "wsj0_train" in message
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "dev", "test", "train_labels", "dev_labels"):
        np.save(other / f"{name}.npy", np.ones((2, 3, 4)) if "labels" not in name else np.ones((2, 3), dtype=int))
    with pytest.raises(InputError, match=r"more than one competition in it: .*F22-S26.*F20-F21"):
        open_competition(tmp_path)


def test_s22(tmp_path: Path, write_split):
    write_split(tmp_path / "train", {"1-1-0": (np.ones((3, 2)), ["SIL", "AA"]), "2-1-0": (np.ones((2, 2)), ["ZH"])})
    write_split(tmp_path / "dev", {"3-1-0": (np.ones((4, 2)), ["B"])})
    write_split(tmp_path / "test", {f"4-1-{k}": (np.ones((k + 1, 2)), None) for k in range(3)})
    with pytest.raises(InputError, match=r"no file .*test_order\.csv: only it has the order"):
        open_competition(tmp_path)
    order = tmp_path / "test" / "test_order.csv"
    order.write_text("file\n4-1-2.npy\n4-1-0.npy\n4-1-1.npy\n")
    competition = open_competition(tmp_path)
    assert (competition.format, competition.header, competition.alphabet) == ("S22", ("id", "predictions"), S22)
    assert competition.test.ids == ("4-1-2", "4-1-0", "4-1-1")
    assert [len(competition.test.features(row)) for row in range(3)] == [3, 1, 2]
    assert competition.test_rows == ("0", "1", "2")
    assert competition.train.labels(0).tolist() == [1, 2]
    (tmp_path / "sample_submission.csv").write_text("id,predictions\n2,x\n0,x\n1,x\n")
    assert open_competition(tmp_path).test.ids == ("4-1-1", "4-1-2", "4-1-0")
    order.write_text("file\n4-1-2.npy\n4-1-0.npy\n")
    with pytest.raises(InputError, match=r"test_order\.csv: 4-1-1 is in this list or in mfcc/, but not in both"):
        open_competition(tmp_path)
    order.write_text("file\n4-1-2.npy\n4-1-0.npy\n4-1-1.npy\n4-1-1.npy\n")
    with pytest.raises(InputError, match=r"4 lines for 3 utterances; expected each once"):
        open_competition(tmp_path)
    order.write_bytes(b"file\n\xff\n")
    with pytest.raises(InputError, match=r"test_order\.csv: not UTF-8 CSV .*expected a header and file names"):
        open_competition(tmp_path)
    order.write_bytes(b"")
    with pytest.raises(InputError, match=r"test_order\.csv: not UTF-8 CSV .*expected a header and file names"):
        open_competition(tmp_path)
    order.write_bytes(b"\xef\xbb\xbffile,row\r\n4-1-2.npy,0\r\n\r\n4-1-0.npy\r\n4-1-1.npy,2\r\n")
    assert open_competition(tmp_path).test.ids == ("4-1-1", "4-1-2", "4-1-0")


# Layouts with one array per split


@pytest.fixture
def f20(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    features = {split: [random.normal(size=(k + 3, 2)) for k in range(3)] for split in ("train", "dev", "test")}
    for split, elements in features.items():
        _ragged(tmp_path / f"{split}.npy", elements)
    _ragged(tmp_path / "train_labels.npy", [np.array([1, 41]), np.array([3]), np.array([5, 5, 7])])
    _ragged(tmp_path / "dev_labels.npy", [[1], [2, 2], [41]])
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
    _ragged(f20 / "dev_labels.npy", [[1], labels, [1]])
    with pytest.raises(InputError, match=r"dev_labels\.npy, " + message):
        open_competition(f20, allow_pickle=True).dev.labels(1)


def test_faults_of_whole_arrays(f20: Path):
    _ragged(f20 / "dev_labels.npy", [[1], [2]])
    with pytest.raises(InputError, match=r"dev_labels\.npy: 2 transcripts for the 3 utterances of dev\.npy"):
        open_competition(f20, allow_pickle=True)
    whole = (f20 / "dev.npy").read_bytes()
    _ragged(f20 / "dev_labels.npy", [[1], [2], [3]])
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
    _ragged(tmp_path / "wsj0_train.npy", [np.ones((4, 40)), np.ones((5, 40))])
    (tmp_path / "wsj0_train.npy").rename(tmp_path / "wsj0_train")
    _ragged(tmp_path / "wsj0_train_merged_labels.npy", [np.array([0, 45]), np.array([36])])
    _ragged(tmp_path / "wsj0_dev.npy", [np.ones((4, 40)), np.ones((5, 40))])
    _ragged(tmp_path / "wsj0_dev_merged_labels.npy", [np.array([46]), np.array([1])])
    _ragged(tmp_path / "transformed_test_data.npy", [np.ones((6, 40)), np.ones((5, 40))])
    competition = open_competition(tmp_path, allow_pickle=True)
    assert (competition.format, competition.header, competition.alphabet) == ("F18-S20", ("Id", "Predicted"), F18)
    assert F18.to_string(competition.train.labels(0)) == "_Z"
    assert F18.to_string(competition.train.labels(1)) == "."
    assert competition.train.features(1).shape == (5, 40)
    assert competition.test.features(0).shape == (6, 40)
    with pytest.raises(InputError, match="label 46; expected 0 to 45"):
        competition.dev.labels(0)


# Which folder


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HW3P2_DATA", raising=False)
    message = "pass --data DIR, set HW3P2_DATA, or make the demo competition with `python -m folds"
    with pytest.raises(InputError, match=message):
        data_root()
    (tmp_path / "demo" / "competition").mkdir(parents=True)
    assert data_root() == Path("demo/competition")
    monkeypatch.setenv("HW3P2_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root(Path("demo")) == Path("demo")
    with pytest.raises(InputError, match="--data: no folder none: expected the competition's folder, unzipped"):
        data_root(Path("none"))
    monkeypatch.setenv("HW3P2_DATA", "gone")
    with pytest.raises(InputError, match="HW3P2_DATA: no folder gone"):
        data_root()
