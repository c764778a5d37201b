"""A competition's data, packed and checked, as `load_dataset` returns it; and how many output frames CTC needs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from folds.competition.alphabets import Alphabet
from folds.competition.base import Competition, speaker_of
from folds.competition.metric import MEAN_DISTANCE
from folds.store.ragged import Ragged, offsets_of


@dataclass(frozen=True, eq=False)
class Split:
    """The utterances of one split."""

    name: str
    ids: tuple[str, ...]
    """Utterance ids without `.npy`; for test, in the order of the submission's rows."""
    frames: Ragged
    """Features, values `(sum of T, F)` float32, normalised per utterance; read-only and memory-mapped."""
    tokens: Ragged | None = None
    """Labels, values `(sum of L,)` int16 classes, never 0 (the blank); None for a split without transcripts."""
    groups: tuple[str, ...] = ()
    """The speaker or day of each utterance, from which folds are made; by default the speaker of a LibriSpeech id.

    If the data name none, each utterance is its own group.
    """
    grouped_by: str = "speaker"
    """What a group is, such as "speaker" or "day"."""
    texts: tuple[str, ...] | None = None
    """Each utterance as a sentence of words; None if the data have no sentences."""
    moments: tuple[np.ndarray, np.ndarray] | None = None
    """Mean and standard deviation of each utterance's features before normalisation, `(N, F)` float32; None if
    unknown."""

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", tuple(map(speaker_of, self.ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def features(self, index: int) -> np.ndarray:
        """`(T, F)` float32 of one utterance, a view."""
        return self.frames[index]

    def labels(self, index: int) -> np.ndarray:
        """`(L,)` int16 of one utterance, a view. Raises ValueError for a split without transcripts."""
        if self.tokens is None:
            raise ValueError(f"the {self.name} split has no transcripts")
        return self.tokens[index]

    @property
    def lengths(self) -> np.ndarray:
        """Frames per utterance, `(N,)` int64."""
        return self.frames.lengths

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """The position of each utterance."""
        return {utterance: row for row, utterance in enumerate(self.ids)}

    @property
    def frame_counts(self) -> dict[str, int]:
        """The number of frames of each utterance."""
        return dict(zip(self.ids, self.lengths.tolist(), strict=True))

    @property
    def names_groups(self) -> bool:
        """Whether the data name groups."""
        return any(group != utterance for group, utterance in zip(self.groups, self.ids, strict=True))

    @property
    def named_groups(self) -> tuple[str, ...] | None:
        """The group of each utterance; None if the data name none."""
        return self.groups if self.names_groups else None


@dataclass(frozen=True, eq=False)
class _JoinedFrames(Ragged):
    """The parts of two arrays, one after the other, without copying: the values of both stay memory-mapped."""

    first: Ragged
    more: Ragged
    """The first and the second array's parts."""

    @staticmethod
    def concatenated(first: Ragged, second: Ragged) -> _JoinedFrames:
        offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:] - second.offsets[0]])
        return _JoinedFrames(first.values, offsets, first, second)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.first[index] if index < len(self.first) else self.more[index - len(self.first)]


def joined(first: Split, second: Split) -> Split:
    """The utterances of `first`, then those of `second`, as one split. Both need transcripts.

    Read its features with `features(index)`: `frames.values` has only those of `first`.
    """
    if first.tokens is None or second.tokens is None:
        raise ValueError(f"{first.name} and {second.name} must both have transcripts")
    tokens = Ragged(
        np.concatenate([first.tokens.values, second.tokens.values]),
        offsets_of(np.concatenate([first.tokens.lengths, second.tokens.lengths])),
    )
    return Split(
        first.name,
        first.ids + second.ids,
        _JoinedFrames.concatenated(first.frames, second.frames),
        tokens,
        first.groups + second.groups,
        first.grouped_by,
        None if first.texts is None or second.texts is None else first.texts + second.texts,
    )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A competition, packed and checked."""

    competition: Competition
    root: Path
    format: str
    alphabet: Alphabet
    features: int
    """Feature dimension `F`, as read from the data."""
    header: tuple[str, str]
    """Column names of a submission."""
    sample_ids: list[str]
    """Ids of a submission's rows in file order, which is the order of `test`."""
    train: Split
    dev: Split
    test: Split
    hash: str
    """16 hexadecimal digits: hash of ids, lengths and transcripts; the same for the same data in another folder."""
    path: Path
    """The cache file."""
    features_hash: str = ""
    """16 hexadecimal digits of all features as they were read, which `hash` leaves out; "" if unknown."""

    @property
    def in_words(self) -> bool:
        """Whether the competition is scored in words."""
        return self.competition.metrics[0].words

    def split(self, name: str) -> Split:
        """The split that predictions of this name are for: train for "oof", dev for "dev", test for "test"."""
        return {"oof": self.train, "dev": self.dev, "test": self.test}[name]

    def dev_metrics(self, hypotheses: Sequence[Sequence[int]]) -> list[str]:
        """The competition's own metrics of class sequences on dev, one line each; mean distances are in every table."""
        if self.dev.tokens is None:
            return []
        references = [self.dev.labels(index) for index in range(len(self.dev))]
        metrics = [metric for metric in self.competition.metrics if not metric.words and metric is not MEAN_DISTANCE]
        return [f"dev: {metric.text(metric.of(hypotheses, references))}" for metric in metrics]


def ctc_frames(labels: Ragged) -> np.ndarray:
    """Output frames that CTC needs per utterance, `(N,)` int64; with fewer its loss is infinite.

    One per label, and one for the blank between two equal labels.

    >>> ctc_frames(Ragged.of([[1, 2, 1], [1, 1], []], np.int16)).tolist()
    [3, 3, 0]
    """
    repeats = np.zeros(len(labels.values), np.int64)
    repeats[1:] = labels.values[1:] == labels.values[:-1]
    repeats[labels.offsets[:-1][labels.lengths > 0]] = 0  # the neighbour belongs to another utterance
    return labels.lengths + np.diff(offsets_of(repeats)[labels.offsets])


def too_short(split: Split, output_lengths: np.ndarray) -> np.ndarray:
    """Indices of the utterances with fewer output frames `(N,)` than CTC needs for their labels."""
    output_lengths = np.asarray(output_lengths)
    if split.tokens is None or output_lengths.shape != (len(split),):
        raise ValueError(f"{split.name}: needs transcripts and {len(split)} output lengths, not {output_lengths.shape}")
    return np.flatnonzero(output_lengths < ctc_frames(split.tokens))
