"""Brain-to-Text '25: its HDF5 files as the organisers describe them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from brain_to_text_files import HELLO, PHONEMES, SESSIONS, SPOKEN, WIDTH, brain_to_text, trial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from folds import load_dataset, speaker_folds
from folds.competition.detect import open_competition
from folds.competition.formats.brain_to_text import ALPHABET
from folds.competition.metric import PHONEME_ERROR_RATE, word_error_rate
from folds.competition.submission import check_submission, write_submission
from folds.data.speaker_folds import assign_folds, utterance_folds
from models.features import normalize
from registry import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    brain_to_text(tmp_path / "data")
    return tmp_path / "data"


def edit(root: Path, split: str, change: Callable[[h5py.File], object], session: str = SESSIONS[1]) -> Path:
    path = root / "hdf5_data_final" / session / f"data_{split}.hdf5"
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_the_alphabet_is_that_of_the_baseline() -> None:
    assert ALPHABET.phonemes[1:] == tuple(PHONEMES[1:]) and ALPHABET.classes == 41


def test_trials_are_read_by_session_then_key(root: Path) -> None:
    dataset = load_dataset(root, progress=False)
    assert dataset.format == "brain-to-text-25" and dataset.features == WIDTH and dataset.header == ("id", "text")
    assert dataset.train.ids == tuple(f"{session}/trial_000{n}" for session in SESSIONS for n in (0, 1))
    assert dataset.test.ids == tuple(f"{session}/trial_000{n}" for session in SESSIONS[:2] for n in (0, 1))
    assert dataset.sample_ids == ["0", "1", "2", "3"]
    assert dataset.test.lengths.tolist() == [30, 40, 30, 40] and dataset.test.tokens is None
    assert dataset.train.labels(3).tolist() == HELLO
    assert dataset.dev.texts == ("Hello world.",) * 4 and dataset.test.texts is None
    with h5py.File(root / "hdf5_data_final" / SESSIONS[1] / "data_val.hdf5") as file:
        stored = file["trial_0001/input_features"][()]
    np.testing.assert_array_equal(dataset.dev.features(3), normalize(stored))


def test_folds_keep_days_together(root: Path) -> None:
    train = load_dataset(root, progress=False).train
    assert train.groups == tuple(session for session in SESSIONS for _ in range(2)) and train.names_groups
    fold_of = speaker_folds(train, 3)
    assert fold_of.tolist() == [fold_of[0]] * 2 + [fold_of[2]] * 2 + [fold_of[4]] * 2 and set(fold_of) == {0, 1, 2}


def test_days_can_be_in_every_fold(root: Path) -> None:
    train = load_dataset(root, progress=False).train
    assert utterance_folds(train, 2).tolist() == [0, 1, 1, 0, 0, 1]
    assert utterance_folds(train, 1).tolist() == [-1] * 6
    assert assign_folds(train, 2, "group").tolist() == speaker_folds(train, 2).tolist()
    with pytest.raises(InputError, match="--folds 7: expected 1 to 6, the number of utterances in train"):
        utterance_folds(train, 7)
    with pytest.raises(InputError, match="--folds 4: expected 1 to 3, the number of days in train"):
        speaker_folds(train, 4)


def test_the_demo_s_folder_without_the_outer_one_is_recognised_too(root: Path) -> None:
    assert open_competition(root / "hdf5_data_final").train.ids == open_competition(root).train.ids


def test_a_sentence_without_its_attribute_is_read_from_its_codes(root: Path) -> None:
    edit(root, "val", lambda file: file["trial_0000"].attrs.__delitem__("sentence_label"))
    texts = load_dataset(root, progress=False).dev.texts
    assert texts is not None and texts[2] == "Hello world."


def test_frames_after_n_time_steps_do_not_count(root: Path) -> None:
    edit(root, "test", lambda file: file["trial_0001"].attrs.__setitem__("n_time_steps", 25))
    assert load_dataset(root, progress=False).test.lengths.tolist() == [30, 40, 30, 25]


def test_smoothed_features_are_other_data(root: Path) -> None:
    plain, smoothed = (load_dataset(root, progress=False, smooth=smooth) for smooth in (0.0, 2.0))
    with h5py.File(root / "hdf5_data_final" / SESSIONS[0] / "data_test.hdf5") as file:
        stored = file["trial_0001/input_features"][()]
    # By the definition: weights of a Gaussian, frames beyond the ends mirrored.
    steps = np.arange(-8, 9)
    weights = np.exp(-(steps**2) / 8)
    expected = [np.tensordot(weights / weights.sum(), np.pad(stored, ((8, 8), (0, 0)), "symmetric")[t : t + 17], 1)
                for t in range(40)]  # fmt: skip
    np.testing.assert_allclose(smoothed.test.features(1), normalize(np.array(expected)), atol=1e-4)
    assert smoothed.hash != plain.hash and smoothed.path != plain.path


def test_metrics_are_rates() -> None:
    assert PHONEME_ERROR_RATE.of([HELLO[:-1], HELLO], [HELLO, HELLO]) == pytest.approx(1 / 20)
    assert word_error_rate(["hello word", "hello world"], ["Hello world.", "Hello, world!"]) == 0.25


def test_the_rate_of_phonemes_is_reported_on_dev(root: Path) -> None:
    """That of words needs sentences, and the mean distance is reported elsewhere."""
    dataset = load_dataset(root, progress=False)
    assert dataset.dev_metrics([HELLO[:-1], HELLO[1:], HELLO, HELLO]) == ["dev: phoneme error rate 5.00 %"]
    assert replace(dataset, dev=dataset.test).dev_metrics([HELLO] * 4) == []


def test_a_submission_has_words(root: Path, tmp_path: Path) -> None:
    competition = open_competition(root)
    path = tmp_path / "submission.csv"
    write_submission(path, competition.header, competition.test_rows, ["it's me", "a, b", "x", "y"])
    assert check_submission(path, ("id", "text"), list("0123"), competition.check_text)[1] == "a, b"
    assert competition.submission_text(HELLO) == SPOKEN
    write_submission(path, competition.header, competition.test_rows, ["a\tb", "b", "x", "y"])
    with pytest.raises(InputError, match="line 2: row 0: 'a.+b' has characters that cannot be printed"):
        check_submission(path, ("id", "text"), list("0123"), competition.check_text)


def _replace(name: str, data: np.ndarray) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file["trial_0001"][name]
        file["trial_0001"][name] = data
        file["trial_0001"].attrs[{"input_features": "n_time_steps", "seq_class_ids": "seq_len"}[name]] = len(data)

    return change


@pytest.mark.parametrize(
    ("split", "change", "expected"),
    [
        ("train", _replace("input_features", np.zeros((9, WIDTH + 1), np.float32)), "7 features per frame; expected 6"),
        ("val", _replace("input_features", np.zeros((9, WIDTH), np.int32)), "expected floating-point features"),
        ("train", _replace("seq_class_ids", np.array([3, 41, 0])), "label 41 in seq_class_ids; expected 1 to 40"),
        ("train", _replace("seq_class_ids", np.array([3, -1, 0])), "label -1 in seq_class_ids; expected 1 to 40"),
        ("train", _replace("seq_class_ids", np.array([3.0, 1.0])), "expected a list of whole numbers"),
        ("val", lambda file: file["trial_0001"].__delitem__("seq_class_ids"), "no seq_class_ids in it; found input_fe"),
        ("test", lambda file: trial(file, 7, 9, HELLO, "Hi."), "has seq_class_ids, but test trials have no labels"),
        ("test", lambda file: file["trial_0001"].__delitem__("input_features"), "no input_features in it; found noth"),
        ("test", lambda file: file.clear(), "no trials in it; expected groups such as trial_0000"),
        ("test", lambda file: file.__setitem__("trial_0009", np.zeros(3)), "trial_0009: not a group"),
        ("val", lambda file: file["trial_0001"].attrs.__setitem__("n_time_steps", 41), "n_time_steps is 41; expected"),
        ("val", lambda file: file["trial_0001"].attrs.__setitem__("seq_len", 501), "seq_len is 501; expected at most"),
        ("val", lambda file: file["trial_0001"].attrs.__setitem__("seq_len", 0), "its transcript is empty"),
        ("val", lambda file: file["trial_0001"].attrs.__setitem__("sentence_label", ""), "its sentence is ''"),
        (
            "test",
            lambda file: (file["trial_0001"].clear(), file["trial_0001"].__setitem__("input_features",
                          h5py.ExternalLink("data_val.hdf5", "/trial_0000/input_features"))),
            "no input_features in it",
        ),
    ],
)  # fmt: skip
def test_a_damaged_trial_is_one_line(
    root: Path, split: str, change: Callable[[h5py.File], object], expected: str
) -> None:
    path = edit(root, split, change)
    with pytest.raises(InputError, match=expected) as error:
        load_dataset(root, progress=False)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_missing_file_of_a_session_is_named(root: Path) -> None:
    (root / "hdf5_data_final" / SESSIONS[0] / "data_train.hdf5").unlink()
    with pytest.raises(InputError, match=rf"no file .*{SESSIONS[0]}.data_train.hdf5: each session has one"):
        open_competition(root)


def test_a_missing_session_is_noticed_by_the_rows_of_the_sample(root: Path) -> None:
    (root / "sample_submission.csv").write_text("id,text\n0,a\n1,a\n2,a\n3,a\n4,a\n5,a\n")
    with pytest.raises(InputError, match="6 rows, one with the id '4', for 4 test utterances; expected the ids 0 to 3"):
        open_competition(root)


def test_the_order_of_the_sample_is_that_of_the_submission(root: Path, tmp_path: Path) -> None:
    (root / "sample_submission.csv").write_text("id,text\n3,a\n1,a\n0,a\n2,a\n")
    competition = open_competition(root)
    assert competition.test_rows == ("3", "1", "0", "2") and competition.test.ids[0] == f"{SESSIONS[1]}/trial_0001"
    write_submission(tmp_path / "x.csv", ("id", "text"), ["0", "1", "2", "3"], ["a"] * 4)
    with pytest.raises(InputError, match="line 2: the rows are in another order: row '0'; expected '3' as in the samp"):
        check_submission(tmp_path / "x.csv", competition.header, competition.test_rows, competition.check_text)


def test_no_sessions(tmp_path: Path) -> None:
    (tmp_path / "hdf5_data_final" / "day1").mkdir(parents=True)
    with pytest.raises(InputError, match="no sessions in it; expected folders such as t15.2023.08.11"):
        open_competition(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.99), place=st.floats(0, 1), flipped=st.integers(0, 255))
def test_a_torn_or_overwritten_file_is_one_line_or_is_read(root: Path, cut: float, place: float, flipped: int) -> None:
    path = root / "hdf5_data_final" / SESSIONS[0] / "data_val.hdf5"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * (len(whole) - 1))] = flipped
    try:
        for content in (whole[: int(cut * len(whole))], bytes(damaged)):
            path.write_bytes(content)
            try:
                dev = open_competition(root).dev
                for index in range(len(dev.ids)):
                    assert dev.labels is not None and dev.text is not None
                    dev.features(index), dev.labels(index), dev.text(index)
            except InputError as error:
                assert "\n" not in str(error) and "data_val.hdf5" in str(error)
            else:
                assert content == bytes(damaged)  # a torn file is never read
    finally:
        path.write_bytes(whole)
