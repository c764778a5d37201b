"""Submissions: written as the sample file has them, and every fault reported before an upload is spent on it."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from folds.competition.alphabets import F18, F22
from folds.competition.submission import check_submission, read_sample, read_submission, sample_of, write_submission
from folds.data.cache import load_dataset
from registry.errors import InputError

HEADER, IDS = ("index", "label"), ["0", "1", "2"]
GOOD = b"index,label\n0,-@\n1,ab\n2,Z-\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    path.write_bytes(GOOD)
    return path


def test_what_is_written_is_the_samples(small: Path, tmp_path: Path):
    (small / "test-clean" / "random_submission.csv").write_text("id,predictions\n1,x\n0,x\n")
    dataset = load_dataset(small, tmp_path / "cache")
    path = tmp_path / "new" / "submission.csv"
    write_submission(path, dataset.header, dataset.sample_ids, ["-@", ""])
    assert path.read_bytes() == b"id,predictions\n1,-@\n0,\n"
    check_text = dataset.alphabet.from_string
    assert check_submission(path, dataset.header, dataset.sample_ids, check_text, allow_empty=True) == ["-@", ""]
    with pytest.raises(ValueError, match="1 strings for the 2 rows"):
        write_submission(path, dataset.header, dataset.sample_ids, ["-"])
    assert path.read_bytes() == b"id,predictions\n1,-@\n0,\n"
    assert [file.name for file in path.parent.iterdir()] == ["submission.csv"]


@pytest.mark.parametrize("alphabet", [F18, F22], ids=["F18", "F22"])
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_any_strings_come_back(alphabet, data: st.DataObject):
    ids = [str(row) for row in range(data.draw(st.integers(1, 5)))]
    string = st.lists(st.integers(1, alphabet.classes - 1), min_size=1).map(alphabet.to_string)
    strings = [data.draw(string) for _ in ids]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "submission.csv")
        write_submission(path, HEADER, ids, strings)
        assert check_submission(path, HEADER, ids, alphabet.from_string) == strings
        assert read_submission(path) == list(zip(ids, strings, strict=True))
        # No character of any alphabet needs quotes, which Kaggle's readers treat differently.
        assert b'"' not in path.read_bytes()


# Strings that a table library might quote, convert or drop.
_TRICKY = ["", "NA", "nan", "None", "1e5", "007", "TRUE", " a ", "a,b", 'a"b', '"', "a\nb", "a\rb", "a\tb", "é∅", "'"]
# Surrogates cannot be written as UTF-8.
_cell = st.sampled_from(_TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(header=st.tuples(_cell, _cell), rows=st.lists(st.tuples(_cell, _cell), max_size=6))
@example(header=("index", "label"), rows=[(str(row), string) for row, string in enumerate(_TRICKY)])
@example(header=("id", "id"), rows=[("", ""), ("", "")])
@settings(deadline=None, max_examples=100)
def test_the_bytes_written_are_those_of_csv(header: tuple[str, str], rows: list[tuple[str, str]]):
    with tempfile.TemporaryDirectory() as folder:
        path, expected = Path(folder, "submission.csv"), Path(folder, "expected.csv")
        with open(expected, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        write_submission(path, header, [row for row, _ in rows], [string for _, string in rows])
        assert path.read_bytes() == expected.read_bytes()


def test_a_good_file(file: Path):
    assert check_submission(file, HEADER, IDS, F22.from_string) == ["-@", "ab", "Z-"]
    file.write_bytes(GOOD.rstrip(b"\n"))
    assert check_submission(file, HEADER, IDS, F22.from_string) == ["-@", "ab", "Z-"]


_ANY = [
    (b"", "submission.csv: the file is empty; expected a header and rows"),
    (b"\n\n", "submission.csv: the file is empty"),
    (b"\xef\xbb\xbf" + GOOD, "begins with a byte-order mark, which would become part of the header; expected plain"),
    ("index,label\n0,-\n".encode("utf-16"), "begins with a byte-order mark"),
    (GOOD.replace(b"\n", b"\r\n"), "line 1: it ends in a carriage return (Windows line endings)"),
    (GOOD.replace(b"ab\n", b"ab\r\n"), "line 3: it ends in a carriage return"),
    (GOOD.replace(b",ab", b",\xe9b"), "line 3: not UTF-8; expected plain UTF-8"),
    (b"index,label\n", "a header and no rows; expected one row per test utterance"),
    (GOOD.replace(b"1,ab", b"1,a,b"), "line 3: 3 columns; expected 2"),
    (GOOD.replace(b"1,ab\n", b"\n1,ab\n"), "line 3: 0 columns; expected 2"),
    (GOOD.replace(b"1,ab", b'1,"ab'), "not CSV (unexpected end of data); expected id,string"),
    (GOOD.replace(b"2,", b"1,"), "line 4: row '1' appears twice; expected each id once"),
]


@pytest.mark.parametrize(("content", "message"), _ANY)
def test_faults_found_without_a_sample(file: Path, content: bytes, message: str):
    file.write_bytes(content)
    for read in (lambda: read_submission(file), lambda: check_submission(file, HEADER, IDS, F22.from_string)):
        with pytest.raises(InputError) as error:
            read()
        assert message in str(error.value) and str(file) in str(error.value)
        assert "\n" not in str(error.value) and "python -m ensemble.blend" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.replace(b"index,label", b"id,label"), "the header is id,label; expected index,label as in the sample"),
        (GOOD.replace(b"index,label\n", b""), "the header is 0,-@; expected index,label"),
        (GOOD.replace(b"1,ab\n", b""), "1 rows missing, first '1'; expected the 3 ids of the sample file, found 2"),
        (GOOD + b"3,a\n4,a\n", "2 rows too many, first '3'; expected the 3 ids"),
        (GOOD.replace(b"1,", b"01,"), "1 rows missing, first '1'"),
        (
            b"index,label\n0,-@\n2,Z-\n1,ab\n",
            "line 3: the rows are in another order: row '2'; expected '1' as in the sample file",
        ),
        (GOOD.replace(b",ab", b",a!"), "line 3: row 1: unknown character '!': expected only -Gfm@"),
        (GOOD.replace(b",ab", b", ab"), "line 3: row 1: unknown character ' '"),
        (GOOD.replace(b",ab", b","), "line 3: row 1 is empty; expected a phoneme string; pass --allow-empty"),
    ],
)
def test_faults_found_with_the_sample(file: Path, content: bytes, message: str):
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        check_submission(file, HEADER, IDS, F22.from_string)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_header_is_found_without_a_sample(file: Path, tmp_path: Path):
    file.write_bytes(GOOD.replace(b"index,label\n", b""))
    with pytest.raises(InputError, match="its first line is a row, '0'; expected a header above it"):
        read_submission(file)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        read_submission(tmp_path / "none.csv")


def test_empty_strings_are_allowed_on_request(file: Path):
    file.write_bytes(GOOD.replace(b",ab", b","))
    assert check_submission(file, HEADER, IDS, F22.from_string, allow_empty=True) == ["-@", "", "Z-"]


# The sample file


@pytest.mark.parametrize(
    "place",
    [
        "test-clean/random_submission.csv",
        "test-clean/transcript/random_submission.csv",
        "sample_submission.csv",
        "test/sampleSubmission.csv",
        "test/transcript/sample.csv",
    ],
)
@pytest.mark.parametrize("outer", ["", "11785-hw3p2"])
def test_where_sample_files_are_found(tmp_path: Path, place: str, outer: str):
    assert sample_of(tmp_path) is None
    path = tmp_path / outer / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xef\xbb\xbfid,label\r\n0,ab\r\n1,\r\n")
    sample = sample_of(tmp_path)
    assert (sample.path, sample.header, sample.ids) == (path, ("id", "label"), ("0", "1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"index,label\n", "expected a sample submission: a header and rows of two columns"),
        (b"index\n0\n", "rows of two columns"),
        (b"index,label\n0,a\n0,b\n", "each id once; download it again"),
        (b"index,label\n0,\xff\n", "not UTF-8 CSV"),
        (b"", "a header and rows of two columns"),
        (b"index,label\n0\n", "rows of two columns"),
        (b"index,label\n0,a,b\n", "rows of two columns"),
        (b'index,label\n0,"a\n', "rows of two columns"),
    ],
)
def test_bad_samples(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "sample_submission.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_sample(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_sample_is_read_as_text(tmp_path: Path):
    """Ids and names that look like numbers or missing values stay as they are."""
    path = tmp_path / "sample.csv"
    path.write_bytes(b"NA,1.0\n\n007,NA\n7,\n 7,x\nnan,x\n")
    sample = read_sample(path)
    assert (sample.header, sample.ids) == (("NA", "1.0"), ("007", "7", " 7", "nan"))


def test_no_folder_has_no_sample(tmp_path: Path):
    assert sample_of(tmp_path / "nowhere") is None
