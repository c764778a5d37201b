"""What a competition's folder contains: its splits, alphabet, submission header and row order.

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
class SplitSource:
    """Where one split's utterances are read from.

    Utterances keep this order in the cache; test utterances are in submission order.
    """

    name: str
    """"train", "dev" or "test"."""
    ids: tuple[str, ...]
    """One id per utterance, unique within the split; speakers are read from it, see `Split.speakers`."""
    files: tuple[str, ...]
    """Every file the split is read from, relative to the root; their names, sizes and times are the cache's key."""
    location: Callable[[int], str]
    """The file or array element of utterance `i`, for error messages."""
    features: Callable[[int], np.ndarray]
    """Reads the features `(T, F)` of utterance `i` as stored: any dtype, neither checked nor normalised."""
    labels: Callable[[int], np.ndarray] | None
    """Reads the classes `(L,)` int16 of utterance `i`, each at least 1; None for a split without transcripts."""

    def reordered(self, order: Sequence[int]) -> SplitSource:
        """The same split with utterance `order[i]` at position `i`."""
        if list(order) == list(range(len(self.ids))):
            return self
        labels = self.labels
        return SplitSource(
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
    """The folder that has the format's layout."""
    format: str
    """The format's name in `FORMATS`."""
    alphabet: Alphabet
    """The phonemes, with their classes and the characters of a submission."""
    header: tuple[str, str]
    """Column names of a submission."""
    sample: SampleFile | None
    """The sample submission, if the folder has one."""
    test_rows: tuple[str, ...]
    """Ids of the submission's rows, in the order of `test.ids`."""
    train: SplitSource
    dev: SplitSource
    test: SplitSource

    @property
    def splits(self) -> tuple[SplitSource, SplitSource, SplitSource]:
        return self.train, self.dev, self.test


def describe_competition(
    root: Path,
    format: str,
    alphabet: Alphabet,
    header: tuple[str, str],
    *,
    train: SplitSource,
    dev: SplitSource,
    test: SplitSource,
) -> Competition:
    """The competition in `root`, whose layout is that of `format`.

    Where there is a sample submission, its header and its order of rows replace `header` and the order of `test`.
    """
    for split in (train, dev, test):
        _check_ids(split)
    sample = sample_of(root)
    rows = tuple(map(str, range(len(test.ids))))
    if sample is not None:
        header, test, rows = sample.header, test.reordered(_sample_order(sample, rows)), sample.ids
    return Competition(root, format, alphabet, header, sample, rows, train, dev, test)


def _check_ids(split: SplitSource) -> None:
    """Raise InputError for an id that cannot be a line of text: ids are stored as such, and printed in messages."""
    for utterance in split.ids:
        if not utterance.isprintable():
            raise InputError(
                f"{split.name}: the utterance id {utterance[:80]!r} has characters that cannot be printed, or is not "
                "UTF-8; expected ids such as 19-198-0000; rename its files"
            )


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
