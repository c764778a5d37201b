"""Readers of files from outside: whatever the bytes, an array of the stated kind or one InputError line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import damage, file_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ensemble.beam import beam_search
from ensemble.lm.ngram import estimate
from folds.competition.alphabets import F22
from folds.competition.formats.utterance_files import _labels
from folds.competition.npy_files import array_length, as_numbers, read_array, read_ragged
from folds.competition.submission import read_sample, read_submission
from folds.data.packed_file import open_packed
from folds.data.validation import checked_features
from registry import InputError
from registry.files import check_regular
from registry.json_files import read_json, read_json_lines

READERS = [
    (read_array, InputError),
    (array_length, InputError),
    (lambda path: read_ragged(path, allow_pickle=True), InputError),
    (read_sample, InputError),
    (read_submission, InputError),
    (lambda path: read_json(path, dict[str, Any]), InputError),
    (lambda path: read_json_lines(path, dict[str, Any]), (InputError, FileNotFoundError)),
]


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("kind", damage.SPECIAL)
@pytest.mark.parametrize(("read", "refusal"), READERS)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path, read: Any, refusal: Any, kind: str) -> None:
    path = tmp_path / "file.npy"
    damage.make_special(path, kind)
    with pytest.raises(refusal) as error:
        read(path)
    one_line(error)


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "link to device"])
def test_a_cache_that_is_no_file_counts_as_none(tmp_path: Path, kind: str) -> None:
    damage.make_special(tmp_path / "cache", kind)
    assert open_packed(tmp_path / "cache") is None
    with pytest.raises(OSError):
        check_regular(tmp_path / "cache")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", sorted(set(damage.HEADERS) - {"complex", "long integer suffix"}))
def test_damaged_headers(tmp_path: Path, name: str, version: int) -> None:
    path = tmp_path / "a.npy"
    damage.header(damage.HEADERS[name], version)(path)
    with pytest.raises(InputError) as error:
        checked_features(read_array(path), str(path))
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize("name", ["absurd", "empty strings"])
def test_a_number_of_utterances_that_the_file_cannot_hold_is_not_believed(tmp_path: Path, name: str) -> None:
    """Ids for 10**12 of them would be made."""
    path = tmp_path / "test.npy"
    damage.header(damage.HEADERS[name])(path)
    with pytest.raises(InputError, match="damaged"):
        array_length(path)


@pytest.mark.parametrize("order", "<>")
def test_numbers_that_are_no_characters_are_refused(tmp_path: Path, order: str) -> None:
    """Python fails on them with a ValueError or a SystemError."""
    path = tmp_path / "a.npy"
    np.save(path, np.array(["AE", "K"]).astype(f"{order}U2"))
    assert _labels(path, F22).tolist() == F22.encode(["AE", "K"]).tolist()
    for code in (0x110000, 0x7FFFFFFF, 0xFFFFFFFF):
        codes = np.array([65, 69, code, 0], f"{order}u4")
        np.save(path, codes.view(f"{order}U2"))
        with pytest.raises(InputError, match="invalid code points") as error:
            read_array(path)
        one_line(error)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("valid") / "a.npy"
    np.save(path, np.arange(24, dtype="<f4").reshape(8, 3))
    features = path.read_bytes()
    np.save(path, np.array(["[SOS]", "AE", "K", "[EOS]"]))
    labels = path.read_bytes()
    damage.object_array([np.ones((4, 2), np.float32), [1, 2]], 4)(path)
    return {"features": features, "labels": labels, "objects": path.read_bytes()}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_bytes_of_an_array_are_read_or_refused(
    valid: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(valid)))
    content = bytearray(valid[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"fuzzed-{os.getpid()}.npy"
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        if kind == "features":
            array = checked_features(read_array(path), str(path))
            assert array.ndim == 2 and np.isfinite(array).all()
        elif kind == "labels":
            assert _labels(path, F22).dtype == np.int16
        else:
            elements = read_ragged(path, allow_pickle=True)
            assert elements.shape == (4,)
            assert as_numbers(elements[0], str(path), "numbers").dtype.kind in "iuf"
    except InputError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


@pytest.mark.parametrize("name", sorted(file_cases.object_elements()))
def test_elements_of_object_arrays_are_numbers_or_refused(name: str) -> None:
    (element, *_) = file_cases.object_elements()[name]
    try:
        assert as_numbers(element, "a.npy, utterance 0", "numbers").dtype.kind in "iuf"
    except InputError as error:
        assert str(error).startswith("a.npy, utterance 0: ") and len(str(error)) < 400


@pytest.mark.parametrize(("largest", "refused"), [(1e9, False), (1.1e9, True), (1e38, True), (1e308, True)])
def test_features_that_would_overflow_are_refused(largest: float, refused: bool) -> None:
    features = np.full((4, 2), -largest)
    if refused:
        with pytest.raises(InputError, match="expected at most 1e"):
            checked_features(features, "a.npy")
    else:
        assert checked_features(features, "a.npy") is features


@settings(max_examples=300, deadline=None)
@given(
    arrays.arrays(np.float32, (1, 6, 4), elements=st.floats(width=32)),
    st.sampled_from([-1e6, -1.0, 0.0, 1.0, 1e6]),
    st.integers(1, 9),
)
def test_any_numbers_are_decoded_or_refused(log_probs: np.ndarray, bonus: float, beam: int) -> None:
    """Log-probabilities of 1e29 and more were a segmentation fault."""
    try:
        ((best, *_),) = beam_search(log_probs, [6], beam=beam, length_bonus=bonus)
    except InputError as error:
        assert str(error).startswith("utterance 0, frame ")
    except ValueError:
        assert not beam_search(log_probs, [6], beam=beam, length_bonus=bonus)[0]  # no sequence is possible
    else:
        assert np.isfinite(best.score) and all(0 < token < 4 for token in best.tokens)


@pytest.mark.parametrize("bonus", [1e30, -1e30, 1.1e6])
def test_scores_that_would_overflow_the_search_are_refused(bonus: float) -> None:
    log_probs = np.log(np.full((1, 5, 3), 1 / 3, np.float32))
    with pytest.raises(InputError, match="would overflow"):
        beam_search(log_probs, [5], length_bonus=bonus)
    with pytest.raises(InputError, match="would overflow"):
        beam_search(log_probs, [5], lm=estimate([[1, 2]], 3, 2), lm_weight=bonus)
    assert beam_search(log_probs, [5], length_bonus=1e6)[0][0].tokens
