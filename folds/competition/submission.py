"""Submission files: the sample that fixes header and row order, writing ours, checking one before it is sent.

Everything here works on the CSV alone: no features are read, and nothing is sent anywhere.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from folds.competition.alphabets import Alphabet
from registry.errors import InputError, atomic_write

if TYPE_CHECKING:
    from folds.data.dataset import Dataset

# Where semesters have put their sample file, relative to the competition's folder.
_FOLDERS = (".", "test-clean", "test-clean/transcript", "test", "test/transcript")
_NAMES = ("random_submission.csv", "sample_submission.csv", "sampleSubmission.csv", "sample.csv")
_AGAIN = "write it again with `python -m ensemble.blend`"


@dataclass(frozen=True)
class SampleFile:
    """The organisers' example of a submission: its two column names and its ids in file order."""

    path: Path
    header: tuple[str, str]
    ids: tuple[str, ...]


def sample_of(root: Path) -> SampleFile | None:
    """The sample file of a competition's folder, or of the folder its zip unpacked into; None where there is none.

    Looks at names only and reads that one file.
    """
    root = Path(root)
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for place in (root, *inside):
        for folder in _FOLDERS:
            for name in _NAMES:
                if (path := place / folder / name).is_file():
                    return read_sample(path)
    return None


def read_sample(path: Path) -> SampleFile:
    """Read a sample file. `InputError` when it is not a CSV of two columns with a row and distinct ids."""
    try:
        # A byte-order mark here is the organisers' slip; Kaggle's own header has none.
        text = Path(path).read_bytes().decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not UTF-8 CSV ({error}); expected the sample file; download it again") from None
    ids = tuple(row[0] for row in rows[1:])
    if not ids or any(len(row) != 2 for row in rows) or len(set(ids)) != len(ids):
        raise InputError(
            f"{path}: expected a sample submission: a header and rows of two columns, each id once; download it again"
        )
    return SampleFile(Path(path), (rows[0][0], rows[0][1]), ids)


def write_submission(path: Path, dataset: Dataset, strings: Sequence[str]) -> None:
    """Write the strings of the test split, in its order, as the competition's submission; whole or not at all.

    UTF-8 without a mark, lines ending in a bare newline, header and ids as in the sample file. `ValueError` unless
    there is one string for each row.
    """
    if len(strings) != len(dataset.sample_ids):
        raise ValueError(f"{len(strings)} strings for the {len(dataset.sample_ids)} rows of the submission")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(dataset.header)
        writer.writerows(zip(dataset.sample_ids, strings, strict=True))


def read_submission(path: Path) -> list[tuple[str, str]]:
    """The rows `(id, string)` of a submission file, header left out, where no sample says what they should be.

    `InputError`, naming file and line, for what no competition takes: no UTF-8 CSV of two columns, a byte-order mark,
    Windows line ends, no header, no rows, an id that stands there twice.
    """
    return [(row, string) for row, string in _body(Path(path), _rows(Path(path)))]


def check_submission(
    path: Path, header: tuple[str, str], ids: Sequence[str], alphabet: Alphabet, allow_empty: bool = False
) -> list[str]:
    """The strings of a submission file that may be sent, in the order of `ids`.

    An empty string is refused unless `allow_empty`: it is a model's failure far more often than a silent utterance.
    `InputError` as `read_submission`, and for another header, missing, extra or permuted rows, an unknown character.
    """
    path = Path(path)
    rows = _rows(path)
    if tuple(rows[0]) != tuple(header):
        raise InputError(
            f"{path}: the header is {','.join(rows[0])}; expected {','.join(header)} as in the sample file; {_AGAIN}"
        )
    body = _body(path, rows)
    _check_ids(path, [row for row, _ in body], ids)
    for line, (row, string) in enumerate(body, start=2):
        if not string and not allow_empty:
            raise InputError(f"{path}, line {line}: row {row} is empty; expected a string; allow it if it is meant so")
        try:
            alphabet.from_string(string)
        except InputError as error:
            raise InputError(f"{path}, line {line}: row {row}: {error}; {_AGAIN}") from None
    return [string for _, string in body]


def _rows(path: Path) -> list[list[str]]:
    """Header and rows of a CSV with two columns, as the bytes stand: nothing is mended on the way."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a submission file; {_AGAIN}") from None
    if not data.strip():
        raise InputError(f"{path}: the file is empty; expected a header and rows; {_AGAIN}")
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            f"{path}: it begins with a byte-order mark, which would become part of the header; expected plain UTF-8; "
            f"save it as 'UTF-8' and not 'UTF-8 with BOM', or {_AGAIN}"
        )
    if b"\r" in data:
        line = data[: data.index(b"\r")].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: it ends in a carriage return (Windows line ends), which may become part of the "
            f"label; expected bare newlines; convert it with `dos2unix`, or {_AGAIN}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8; expected plain UTF-8; save it so, or {_AGAIN}") from None
    return list(_parsed(path, text))


def _parsed(path: Path, text: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if len(row) != 2:
                raise InputError(f"{path}, line {reader.line_num}: {len(row)} columns; expected 2; {_AGAIN}")
            yield row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}); expected id,string; {_AGAIN}") from None


def _body(path: Path, rows: list[list[str]]) -> list[list[str]]:
    """The rows below the header, each id once."""
    if rows[0][0].isdigit():
        raise InputError(f"{path}: its first line is a row, {rows[0][0]!r}; expected a header above it; {_AGAIN}")
    if len(rows) < 2:
        raise InputError(f"{path}: a header and no rows; expected one for each test utterance; {_AGAIN}")
    seen: set[str] = set()
    for line, (row, _) in enumerate(rows[1:], start=2):
        if row in seen:
            raise InputError(f"{path}, line {line}: row {row!r} stands there twice; expected each once; {_AGAIN}")
        seen.add(row)
    return rows[1:]


def _check_ids(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    """The ids found, each once, are the ids expected, in their order."""
    have, wanted = set(found), set(expected)
    count = f"expected the {len(wanted)} ids of the sample file, found {len(found)} rows"
    if missing := [row for row in expected if row not in have]:
        raise InputError(f"{path}: {len(missing)} rows missing, first {missing[0]!r}; {count}; {_AGAIN}")
    if extra := [row for row in found if row not in wanted]:
        raise InputError(f"{path}: {len(extra)} rows too many, first {extra[0]!r}; {count}; {_AGAIN}")
    for line, (row, expected_row) in enumerate(zip(found, expected, strict=True), start=2):
        if row != expected_row:
            raise InputError(
                f"{path}, line {line}: the rows are in another order: row {row!r}; expected {expected_row!r} as in the "
                f"sample file; {_AGAIN}"
            )
