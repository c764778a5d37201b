"""TODO"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from folds.competition.alphabets import Alphabet


@dataclass(frozen=True)
class Split:
    """One split, packed: utterance `i` is rows `offsets[i]:offsets[i + 1]` of `frames`, and so for its tokens."""

    name: str
    ids: tuple[str, ...]
    """Utterance ids without `.npy`; those of test in the submission's row order."""
    frames: np.ndarray
    """`(sum of T, F)` float32, normalised per utterance; read-only and mapped from the disk."""
    offsets: np.ndarray
    """`(N + 1,)` int64."""
    tokens: np.ndarray | None = None
    """`(sum of L,)` int16 classes, never 0 (the blank); None for a split without transcripts."""
    token_offsets: np.ndarray | None = None
    """`(N + 1,)` int64."""

    def __len__(self) -> int:
        return len(self.ids)

    def features(self, index: int) -> np.ndarray:
        """`(T, F)` float32 of one utterance, a view."""
        return self.frames[self.offsets[index] : self.offsets[index + 1]]

    def labels(self, index: int) -> np.ndarray:
        """`(L,)` int16 of one utterance, a view. `ValueError` where the split has no transcripts."""
        if self.tokens is None:
            raise ValueError(f"the {self.name} split has no transcripts")
        return self.tokens[self.token_offsets[index] : self.token_offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance, `(N,)` int64."""
        return np.diff(self.offsets)

    @property
    def speakers(self) -> list[str]:
        """The speaker of each utterance, the first field of a LibriSpeech id.

        The array formats tell no speakers: there each utterance counts as its own.
        """
        return [utterance.split("-", 1)[0] for utterance in self.ids]


@dataclass(frozen=True)
class Dataset:
    """A competition, packed and checked."""

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
    """16 hexadecimal digits of ids, lengths and transcripts; the same data in another place has the same."""
    path: Path = field(compare=False)
    """The cache file."""


def too_short(split: Split, output_lengths: np.ndarray) -> np.ndarray:
    """Indices of utterances whose labels cannot be emitted in their output frames `(N,)`.

    CTC needs a frame a label, and one for the blank between two equal neighbours; with fewer the loss is infinite.
    """
    output_lengths = np.asarray(output_lengths)
    if split.tokens is None or output_lengths.shape != (len(split),):
        raise ValueError(f"{split.name}: needs transcripts and {len(split)} output lengths, not {output_lengths.shape}")
    # repeats[j] counts equal neighbours up to token j; a pair that straddles two utterances lies in no difference.
    repeats = np.concatenate([[0], np.cumsum(split.tokens[1:] == split.tokens[:-1])])
    starts, ends = split.token_offsets[:-1], split.token_offsets[1:]
    needed = ends - starts + repeats[ends - 1] - repeats[starts]
    return np.flatnonzero(output_lengths < needed)
