"""Layouts with one file per utterance: what is read is what was written, and every fault is reported in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from competition_files import one_line

from folds.competition.alphabets import F22, S22
from folds.competition.detect import data_root, open_competition
from registry.errors import InputError


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


def test_files_that_are_not_utterances_are_ignored(small: Path):
    """macOS adds the first kind to zip files, one for each file."""
    for folder in ("mfcc", "transcript"):
        for name in ("._10-1-0000.npy", ".DS_Store", "notes.txt"):
            (small / "train-clean-100" / folder / name).write_bytes(b"x")
    assert open_competition(small).train.ids == ("10-1-0000", "10-1-0001", "9-1-0000")


def test_a_reordered_split_is_reordered_in_everything(small: Path):
    train = dataclasses.replace(open_competition(small).train, text=str)
    turned = train.reordered([2, 0, 1])
    assert turned.ids == ("9-1-0000", "10-1-0000", "10-1-0001") and turned.location(0) == train.location(2)
    assert [len(turned.features(row)) for row in range(3)] == [4, 9, 6]
    assert [len(turned.labels(row)) for row in range(3)] == [1, 2, 3] and turned.text(1) == "0"
    assert train.reordered([0, 1, 2]) is train


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
    message = one_line(error)
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
    message = one_line(error)
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
    message = one_line(error)
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
