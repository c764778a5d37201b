"""Alphabets and `.npy` files: what is read is what was written, and every fault is reported in one line."""

from __future__ import annotations

import io
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from competition_files import save_object_array
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from folds.competition.alphabets import F18, F20, F22, S22, Alphabet
from folds.competition.npy_files import read_array
from registry.errors import InputError

ALPHABETS = (F18, F20, S22, F22)


def test_alphabets_are_the_courses():
    assert [alphabet.classes for alphabet in ALPHABETS] == [47, 42, 41, 41]
    assert F22.to_string(F22.encode(["[SIL]", "NG", "AE", "AY", "IH"])) == "-G@YI"
    assert [F22.phonemes[index] for index in (1, 2, 15, 29, 40)] == ["[SIL]", "NG", "ER", "TH", "IH"]
    some = ("SIL", "AA", "AE", "AH", "AO", "AW", "Y", "ZH")
    assert [S22.characters[S22.phonemes.index(phoneme)] for phoneme in some] == [*".aAhow?Z"]
    assert (F20.phonemes[2], F20.characters[2], F18.phonemes[37], F18.characters[37]) == ("SPN", "!", "SIL", ".")
    assert len({alphabet.hash for alphabet in ALPHABETS}) == 4


def test_every_phoneme_has_the_character_of_its_semester():
    assert " ".join(F22.phonemes[1:]) == (
        "[SIL] NG F M AE R UW N IY AW V UH OW AA ER HH Z K CH W EY ZH T EH Y AH B P TH DH AO G L JH OY SH D AY S IH"
    )
    assert "".join(F22.characters) == "-Gfm@runiWvUoaRhzkCweZtEyAbpTDcgljOSdYsI"
    assert S22.phonemes[1] == "SIL" and F20.phonemes[1:3] == ("SIL", "SPN")
    for in_order in (S22.phonemes[2:], F20.phonemes[3:], F18.phonemes[1:]):
        assert list(in_order) == sorted(in_order)
    assert "".join(S22.characters) == ".aAhowybcdDerEfgHiIjklmnNOYpRsStTuUvW?zZ"
    assert "".join(F20.characters) == ".!aAhowybcdDerEfgHiIjklmnNOYpRsStTuUvW?zZ"
    assert "".join(F18.characters) == "_+~!-@aAhowybcdDerEfgHiIjklmnGOYpRsS.tTuUvW?zZ"


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
    save_object_array(tmp_path / "object.npy", [_Bomb(mark)])
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_Bomb(mark)))
    with pytest.raises(InputError, match=r"object\.npy: an object array.*expected plain numbers"):
        read_array(tmp_path / "object.npy")
    with pytest.raises(InputError, match=r"bare\.npy: not a \.npy file"):
        read_array(tmp_path / "bare.npy")
    with pytest.raises(InputError, match=r"none\.npy: cannot be read \(No such file"):
        read_array(tmp_path / "none.npy")
    assert not mark.exists()
