"""Submission files: the sample that fixes header and row order, writing ours, checking one before it is sent.

Everything here works on the CSV alone: no features are read, and nothing is sent anywhere.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InputError, atomic_write

# Where semesters have put their sample file, relative to the competition's folder.
_FOLDERS = (".", "test-clean", "test-clean/transcript", "test", "test/transcript")
_NAMES = ("random_submission.csv", "sample_submission.csv", "sampleSubmission.csv", "sample.csv")


@dataclass(frozen=True)
class SampleFile:
    """The organisers' example of a submission: its two column names and its ids in file order."""

    path: Path
    header: tuple[str, str]
    ids: tuple[str, ...]


def read_sample(path: Path) -> SampleFile:
    """Read a sample file. `InputError` when it has not two columns or no rows."""
    try:
        # A byte-order mark here is the organisers' slip; Kaggle's own header has none.
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the sample file is not UTF-8 CSV ({error}); download it again") from None
    if len(rows) < 2 or any(len(row) != 2 for row in rows):
        raise InputError(f"{path}: expected a header and rows of two columns in the sample file; download it again")
    return SampleFile(Path(path), (rows[0][0], rows[0][1]), tuple(row[0] for row in rows[1:]))


def sample_of(root: Path) -> SampleFile | None:
    """The sample file of a competition's folder, or None where it has none. Reads nothing else."""
    for folder in _FOLDERS:
        for name in _NAMES:
            path = Path(root) / folder / name
            if path.is_file():
                return read_sample(path)
    return None


def write_rows(path: Path, header: tuple[str, str], ids: Sequence[str], strings: Sequence[str]) -> None:
    """Write a two-column CSV whole or not at all: UTF-8 without a mark, lines ending in a bare newline."""
    if len(ids) != len(strings):
        raise ValueError(f"{len(strings)} strings for {len(ids)} rows")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(ids, strings, strict=True))
