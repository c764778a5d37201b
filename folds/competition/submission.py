"""Submission files: reading the organisers' sample (for header and row order), writing and checking a submission.

Everything here works on CSV files only: no features are read, and nothing is uploaded.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from registry.errors import InputError, describe_os_error
from registry.files import atomic_write, check_regular, read_regular

# Where semesters have put their sample file, relative to the competition's folder.
_FOLDERS = (".", "test-clean", "test-clean/transcript", "test", "test/transcript")
_NAMES = ("random_submission.csv", "sample_submission.csv", "sampleSubmission.csv", "sample.csv")
_REWRITE = "write it again with `python -m ensemble.blend`"


@dataclass(frozen=True)
class SampleFile:
    """The organisers' example of a submission: its two column names and its ids in file order."""

    path: Path
    header: tuple[str, str]
    ids: tuple[str, ...]


def sample_of(root: Path) -> SampleFile | None:
    """The sample file of a competition's folder, or of the folder its zip file unpacked into; None if there is none.

    Only looks at names, and reads only that file.
    """
    root = Path(root)
    subfolders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for parent in (root, *subfolders):
        for folder in _FOLDERS:
            for name in _NAMES:
                if (path := parent / folder / name).is_file():
                    return read_sample(path)
    return None


def read_sample(path: Path) -> SampleFile:
    """Read a sample file. Raises InputError unless it is a CSV file of two columns with rows and distinct ids."""
    expected = InputError(
        f"{path}: expected a sample submission: a header and rows of two columns, each id once; download it again"
    )
    try:
        check_regular(path)
        # The organisers' file may begin with a byte-order mark ("utf-8-sig"), which must not end up in the header.
        # Only the Python engine reports a missing second column as missing.
        table = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", engine="python"
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 CSV ({error}); expected the sample file; download it again") from None
    except OSError as error:
        raise InputError(describe_os_error(error, path)) from None
    except (ValueError, csv.Error):  # pandas' own errors are ValueErrors, too
        raise expected from None
    if table.shape[1] != 2 or table.isna().any(axis=None):
        raise expected
    header, ids = table.iloc[0], table.iloc[1:, 0]
    if ids.empty or not ids.is_unique:
        raise expected
    return SampleFile(Path(path), (header[0], header[1]), tuple(ids))


def write_submission(path: Path, header: tuple[str, str], ids: Sequence[str], strings: Sequence[str]) -> None:
    """Write phoneme strings `(N,)` for the rows `ids` `(N,)` as a submission file, atomically.

    UTF-8 without a byte-order mark, Unix line endings. Raises ValueError unless there is one string per id.

    >>> write_submission(Path("submission.csv"), ("index", "label"), ["0", "1"], ["-@", "ab"])  # doctest: +SKIP
    """
    if len(strings) != len(ids):
        raise ValueError(f"{len(strings)} strings for the {len(ids)} rows of the submission")
    table = pd.DataFrame(zip(ids, strings, strict=True), columns=list(header), dtype=object)
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def read_submission(path: Path) -> list[tuple[str, str]]:
    """The rows `(id, string)` of a submission file without its header, when there is no sample file to compare with.

    Raises InputError, naming file and line, for what every competition rejects: a file that is not UTF-8 CSV of two
    columns, a byte-order mark, Windows line endings, no header, no rows, an id that appears twice.
    """
    path = Path(path)
    return [(row, string) for row, string in _body(path, _rows(path))]


def check_submission(
    path: Path,
    header: tuple[str, str],
    ids: Sequence[str],
    check_text: Callable[[str], object],
    allow_empty: bool = False,
) -> list[str]:
    """The strings of a submission file, in the order of `ids`, after checks that Kaggle will accept it.

    `check_text` raises InputError for an invalid string, as the `from_string` of an alphabet does. An empty string is
    rejected unless `allow_empty`: it is far more often a model's failure than a silent utterance. Raises InputError as
    `read_submission` does, and for a wrong header, missing or extra rows, rows out of order, and unknown characters.
    """
    path = Path(path)
    rows = _rows(path)
    if tuple(rows[0]) != tuple(header):
        raise InputError(
            f"{path}: the header is {','.join(rows[0])}; expected {','.join(header)} as in the sample file; {_REWRITE}"
        )
    body = _body(path, rows)
    _check_ids(path, [row for row, _ in body], ids)
    for line, (row, string) in enumerate(body, start=2):
        if not string and not allow_empty:
            raise InputError(
                f"{path}, line {line}: row {row} is empty; expected a phoneme string; "
                f"pass --allow-empty if this is intended"
            )
        try:
            check_text(string)
        except InputError as error:
            raise InputError(f"{path}, line {line}: row {row}: {error}; {_REWRITE}") from None
    return [string for _, string in body]


def _rows(path: Path) -> list[list[str]]:
    """Header and rows of a CSV file with two columns. A CSV library would silently repair what is rejected here."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a submission file; {_REWRITE}") from None
    if not data.strip():
        raise InputError(f"{path}: the file is empty; expected a header and rows; {_REWRITE}")
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            f"{path}: it begins with a byte-order mark, which would become part of the header; expected plain UTF-8; "
            f"save it as 'UTF-8' and not 'UTF-8 with BOM', or {_REWRITE}"
        )
    if b"\r" in data:
        line = data[: data.index(b"\r")].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: it ends in a carriage return (Windows line endings), which may become part of the "
            f"label; expected bare newlines; convert it with `dos2unix`, or {_REWRITE}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8; expected plain UTF-8; save it so, or {_REWRITE}") from None
    return list(_parsed(path, text))


def _parsed(path: Path, text: str) -> Iterator[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if len(row) != 2:
                raise InputError(f"{path}, line {reader.line_num}: {len(row)} columns; expected 2; {_REWRITE}")
            yield row
    except csv.Error as error:
        message = f"{path}, line {reader.line_num}: not CSV ({error}); expected id,string; {_REWRITE}"
        raise InputError(message) from None


def _body(path: Path, rows: list[list[str]]) -> list[list[str]]:
    """The rows below the header. Raises InputError if there are none, or if an id appears twice."""
    if rows[0][0].isdigit():
        raise InputError(f"{path}: its first line is a row, {rows[0][0]!r}; expected a header above it; {_REWRITE}")
    if len(rows) < 2:
        raise InputError(f"{path}: a header and no rows; expected one row per test utterance; {_REWRITE}")
    known: set[str] = set()
    for line, (row, _) in enumerate(rows[1:], start=2):
        if row in known:
            raise InputError(f"{path}, line {line}: row {row!r} appears twice; expected each id once; {_REWRITE}")
        known.add(row)
    return rows[1:]


def _check_ids(path: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    """Raise InputError unless the ids found, each once, are the expected ones in the expected order."""
    found_ids, expected_ids = set(found), set(expected)
    counts = f"expected the {len(expected)} ids of the sample file, found {len(found)} rows"
    if missing := [row for row in expected if row not in found_ids]:
        raise InputError(f"{path}: {len(missing)} rows missing, first {missing[0]!r}; {counts}; {_REWRITE}")
    if extra := [row for row in found if row not in expected_ids]:
        raise InputError(f"{path}: {len(extra)} rows too many, first {extra[0]!r}; {counts}; {_REWRITE}")
    for line, (row, expected_row) in enumerate(zip(found, expected, strict=True), start=2):
        if row != expected_row:
            raise InputError(
                f"{path}, line {line}: the rows are in another order: row {row!r}; expected {expected_row!r} as in the "
                f"sample file; {_REWRITE}"
            )
