"""A competition: how its folder is recognised and read, its alphabet, groups, metrics, rules and submissions.

A competition is one class in one file, registered in `COMPETITIONS`. Built-in ones are in `folds/competition/formats/`,
those of installed plug-ins in the entry-point group `hw3p2_competitions`. Opening a folder reads only file names and
the sample submission; features and labels are read one utterance at a time, when they are packed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from folds.competition.alphabets import Alphabet
from folds.competition.metric import MEAN_DISTANCE, Metric
from folds.competition.submission import SampleFile, sample_of
from registry.errors import InputError
from registry.registry import Registry

COMPETITIONS: Registry[type[Competition]] = Registry("competitions", package="folds.competition.formats")

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class SplitSource:
    """The source of one split, read utterance by utterance.

    The cache keeps the order of the utterances; test utterances are in submission order.
    """

    name: str
    """"train", "dev" or "test"."""
    ids: tuple[str, ...]
    """One id per utterance, unique within the split."""
    files: tuple[str, ...]
    """All files of the split, relative to the root; their names, sizes and modification times are the cache's key."""
    location: Callable[[int], str]
    """The file or array element of utterance `i`, for error messages."""
    features: Callable[[int], np.ndarray]
    """Reads the features `(T, F)` of utterance `i` as stored: any dtype, neither checked nor normalised."""
    labels: Callable[[int], np.ndarray] | None
    """Reads the classes `(L,)` int16 of utterance `i`, each at least 1; None for a split without transcripts."""
    text: Callable[[int], str] | None = None
    """Reads utterance `i` as a sentence of words; None for data without sentences."""
    close: Callable[[], object] = lambda: None
    """Called after all utterances have been read, to release files that were kept in memory."""

    def reordered(self, order: Sequence[int]) -> SplitSource:
        """The same split with utterance `order[i]` at position `i`."""
        if list(order) == list(range(len(self.ids))):
            return self
        labels, text = self.labels, self.text
        return replace(
            self,
            ids=tuple(self.ids[index] for index in order),
            location=lambda index: self.location(order[index]),
            features=lambda index: self.features(order[index]),
            labels=None if labels is None else lambda index: labels(order[index]),
            text=None if text is None else lambda index: text(order[index]),
        )


@dataclass(frozen=True)
class Rules:
    """What a competition allows."""

    max_params: int | None = None
    """Maximum total number of parameters over all networks used; None for no limit."""
    forbid: tuple[str, ...] = ()
    """Tags that no model used may have."""

    def completed(self, others: Rules) -> Rules:
        """These rules, with those that are not set taken from `others`."""
        return Rules(others.max_params if self.max_params is None else self.max_params, self.forbid or others.forbid)


class Competition(ABC):
    """The competition in the folder `root`. Raises InputError if the folder is damaged.

    `allow_pickle` permits files that must be unpickled, which can run arbitrary code.
    """

    alphabet: ClassVar[Alphabet]
    """The phonemes, with their classes and characters."""
    columns: ClassVar[tuple[str, str]]
    """Column names of a submission; those of a sample file take precedence."""
    grouped_by: ClassVar[str] = "speaker"
    """What a group is, such as "speaker" or "day": folds keep groups together."""
    metrics: ClassVar[tuple[Metric, ...]] = (MEAN_DISTANCE,)
    """Its metrics, the leaderboard's first; reports show all of them."""
    rules: ClassVar[Rules] = Rules()
    """Its rules, if they are the same every year."""
    frame_shift: ClassVar[float] = 0.01
    """Seconds from one frame of features to the next."""
    frame_length: ClassVar[float] = 0.025
    """Seconds of signal that a frame covers."""
    front_end: ClassVar[str | None] = None
    """The front end in `folds.frontends` that computed the features, if known for all of its data."""

    def __init__(self, root: Path, allow_pickle: bool = False) -> None:
        self.root = root
        self.allow_pickle = allow_pickle
        self.train, self.dev, self.test = map(self.read, SPLITS)
        for split in self.splits:
            _check_ids(split)
        self.sample: SampleFile | None = self.find_sample()
        self.header = self.columns
        self.test_rows: tuple[str, ...] = tuple(map(str, range(len(self.test.ids))))
        if self.sample is not None:
            self.follow(self.sample)

    def follow(self, sample: SampleFile) -> None:
        """Adopt the header and the row order of a sample submission."""
        self.sample, self.header = sample, sample.header
        self.test = self.test.reordered(_sample_order(sample, self.test_rows))
        self.test_rows = sample.ids

    @classmethod
    @abstractmethod
    def recognises(cls, root: Path) -> bool:
        """Whether the folder has this competition's layout, judging by names alone."""

    @abstractmethod
    def read(self, split: str) -> SplitSource:
        """The split "train", "dev" or "test" of `root`. Names are checked now, contents when they are read."""

    def find_sample(self) -> SampleFile | None:
        """The sample submission, whose header and row order override `columns` and the order of test."""
        return sample_of(self.root)

    def group(self, utterance: str) -> str:
        """The group of the utterance with this id: its speaker by default, or the id itself if it names none."""
        return speaker_of(utterance)

    def submission_text(self, labels: Iterable[int]) -> str:
        """The text for these classes in a submission."""
        return self.alphabet.to_string(labels)

    def check_text(self, text: str) -> None:
        """Raise InputError for a text that is not valid in a submission."""
        self.alphabet.from_string(text)

    @property
    def format(self) -> str:
        """Its registered name in `COMPETITIONS`."""
        return next(name for name in COMPETITIONS.names() if COMPETITIONS.get(name) is type(self))

    @property
    def splits(self) -> tuple[SplitSource, SplitSource, SplitSource]:
        return self.train, self.dev, self.test


def speaker_of(utterance: str) -> str:
    """The speaker of an utterance, the first field of a LibriSpeech id.

    >>> speaker_of("103-1240-0000")
    '103'
    """
    return utterance.split("-", 1)[0]


def _check_ids(split: SplitSource) -> None:
    """Raise InputError for an unprintable id: ids are stored as lines of text, and printed in messages."""
    for utterance in split.ids:
        if not utterance.isprintable():
            raise InputError(
                f"{split.name}: the utterance id {utterance[:80]!r} has characters that cannot be printed, or is not "
                "UTF-8; expected ids such as 19-198-0000; rename its files"
            )


def _sample_order(sample: SampleFile, rows: Sequence[str]) -> list[int]:
    """The index of the test utterance for each row of the sample, whose ids must be those of `rows`."""
    position = {row: index for index, row in enumerate(rows)}
    if len(sample.ids) != len(rows) or set(sample.ids) != set(rows):
        unknown = next((row for row in sample.ids if row not in position), None)
        found = f"{len(sample.ids)} rows" + (f", one with the id {unknown!r}" if unknown is not None else "")
        raise InputError(
            f"{sample.path}: {found}, for {len(rows)} test utterances; expected the ids 0 to {len(rows) - 1}, each "
            f"once; unzip the whole competition again"
        )
    return [position[row] for row in sample.ids]
