"""What a competition's folder holds: its splits, alphabet, submission header and row order.

A format is a function that recognises one folder layout; it is registered in `FORMATS`. Ours are in
`folds/competition/formats/`, those of installed plug-ins in the entry-point group `hw3p2_formats`. Describing a folder
reads names and the sample submission only; features and labels are read one utterance at a time, when they are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.competition.alphabets import Alphabet
from folds.competition.submission import SampleFile, sample_of
from registry.errors import InputError
from registry.registry import Registry

# A format takes a folder and `allow_pickle`, and returns None when the folder does not have its layout.
FORMATS: Registry[Callable[[Path, bool], Competition | None]] = Registry("formats", package="folds.competition.formats")


@dataclass(frozen=True)
class Utterances:
    """The files of one split. Utterances have the order of the packed data; those of test, the submission's order."""

    name: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    """Every file the split is read from, relative to the root: their names, sizes and times are the cache's key."""
    location: Callable[[int], str]
    """Where utterance `i` is stored, for messages."""
    features: Callable[[int], np.ndarray]
    """Features of utterance `i` as stored, unchecked."""
    labels: Callable[[int], np.ndarray] | None
    """Classes `(L,)` int16 of utterance `i`; None for a split without transcripts."""

    def reordered(self, order: Sequence[int]) -> Utterances:
        """The same split with utterance `order[i]` at position `i`."""
        if list(order) == list(range(len(self.ids))):
            return self
        labels = self.labels
        return Utterances(
            name=self.name,
            ids=tuple(self.ids[index] for index in order),
            files=self.files,
            location=lambda index: self.location(order[index]),
            features=lambda index: self.features(order[index]),
            labels=None if labels is None else lambda index: labels(order[index]),
        )


@dataclass(frozen=True)
class Competition:
    """A folder in one of the registered formats."""

    root: Path
    format: str
    alphabet: Alphabet
    header: tuple[str, str]
    """Column names of a submission."""
    sample: SampleFile | None
    test_rows: tuple[str, ...]
    """Ids of the submission's rows, in the order of `test.ids`."""
    train: Utterances
    dev: Utterances
    test: Utterances

    @property
    def splits(self) -> tuple[Utterances, Utterances, Utterances]:
        return self.train, self.dev, self.test


def describe_competition(
    root: Path,
    name: str,
    alphabet: Alphabet,
    header: tuple[str, str],
    *,
    train: Utterances,
    dev: Utterances,
    test: Utterances,
) -> Competition:
    """The competition in `root`, of the format `name`.

    Where there is a sample submission, its header and its order of rows replace `header` and the order of `test`.
    """
    sample = sample_of(root)
    rows = tuple(map(str, range(len(test.ids))))
    if sample is not None:
        header, test, rows = sample.header, test.reordered(_sample_order(sample, rows)), sample.ids
    return Competition(root, name, alphabet, header, sample, rows, train, dev, test)


def _sample_order(sample: SampleFile, rows: Sequence[str]) -> list[int]:
    """The test utterance of each row of the sample: its ids are 0-based positions in the test split."""
    position = {row: index for index, row in enumerate(rows)}
    if len(sample.ids) != len(rows) or set(sample.ids) != set(rows):
        unknown = next((row for row in sample.ids if row not in position), None)
        found = f"{len(sample.ids)} rows" + (f", one with the id {unknown!r}" if unknown is not None else "")
        raise InputError(
            f"{sample.path}: {found}, for {len(rows)} test utterances; expected the ids 0 to {len(rows) - 1}, each "
            f"once; unzip the whole competition again"
        )
    return [position[row] for row in sample.ids]
