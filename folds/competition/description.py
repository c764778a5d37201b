"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.competition.alphabets import Alphabet
from folds.competition.submission import SampleFile, sample_of
from registry.errors import InputError
from registry.registry import Registry

# A format looks at a folder (and at `allow_pickle`) and answers what it holds, or None when it is not its own.
FORMATS: Registry[Callable[[Path, bool], Competition | None]] = Registry("formats", package="folds.competition.formats")


@dataclass(frozen=True)
class Utterances:
    """One split as it lies on the disk, in the order its rows have in the cache (test: the submission's order)."""

    name: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    """Every file the split is read from, relative to the root: the cache is keyed by names, sizes and times."""
    place: Callable[[int], str]
    """Where utterance `i` lies, for messages."""
    features: Callable[[int], np.ndarray]
    """Features of utterance `i` as found, unchecked."""
    labels: Callable[[int], np.ndarray] | None
    """Classes `(L,)` int16 of utterance `i`; None for a split without transcripts."""


@dataclass(frozen=True)
class Competition:
    """A folder in one of the registered formats."""

    root: Path
    format: str
    alphabet: Alphabet
    header: tuple[str, str]
    sample: SampleFile | None
    test_rows: tuple[str, ...]
    """Ids of the submission's rows, in the order of `test.ids`."""
    train: Utterances
    dev: Utterances
    test: Utterances

    @property
    def splits(self) -> tuple[Utterances, Utterances, Utterances]:
        return self.train, self.dev, self.test


def _competition(
    root: Path, name: str, alphabet: Alphabet, header: tuple[str, str],
    train: Utterances, dev: Utterances, test: Utterances,
) -> Competition:
    """Fill in what the sample file settles: header and rows are its own where there is one."""
    sample = sample_of(root)
    rows = tuple(map(str, range(len(test.ids))))
    if sample is not None:
        test, rows, header = _reordered(test, _sample_order(sample, rows)), sample.ids, sample.header
    return Competition(root, name, alphabet, header, sample, rows, train, dev, test)


def _sample_order(sample: SampleFile, rows: Sequence[str]) -> list[int]:
    """Which test utterance each row of the sample is: its ids are 0-based places in the order of the test split."""
    place = {row: index for index, row in enumerate(rows)}
    if len(sample.ids) != len(rows) or set(sample.ids) != set(rows):
        odd = next((row for row in sample.ids if row not in place), None)
        found = f"{len(sample.ids)} rows" + (f", one with the id {odd!r}" if odd is not None else "")
        raise InputError(
            f"{sample.path}: {found}, for {len(rows)} test utterances; expected the ids 0 to {len(rows) - 1}, each "
            f"once; unzip the whole competition again"
        )
    return [place[row] for row in sample.ids]


def _reordered(split: Utterances, order: Sequence[int]) -> Utterances:
    if list(order) == list(range(len(split.ids))):
        return split
    return Utterances(
        split.name, tuple(split.ids[index] for index in order), split.files,
        lambda row: split.place(order[row]), lambda row: split.features(order[row]), None,
    )
