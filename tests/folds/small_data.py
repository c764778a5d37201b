"""Utterances and hypotheses made by hand, for the tests of data and training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from folds.data.dataset import Split
from folds.store.nbest_file import NBestHypotheses
from folds.store.ragged import Ragged, offsets_of


def split_of(lengths: list[int], speakers: list[int] | None = None) -> Split:
    """Utterances of so many frames, in which every frame has a value of its own, with 1 to 3 labels each."""
    speakers = speakers or [0] * len(lengths)
    frames = np.arange(sum(lengths), dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    counts = [1 + n % 3 for n in lengths]
    tokens = (np.arange(sum(counts)) % 5 + 1).astype(np.int16)
    ids = tuple(f"{speaker}-1-{i:04d}" for i, speaker in enumerate(speakers))
    return Split("train", ids, Ragged(frames, offsets_of(lengths)), Ragged(tokens, offsets_of(counts)))


def labels_of(split: Split) -> list[list[int]]:
    """The transcripts of all utterances."""
    return [split.labels(index).tolist() for index in range(len(split))]


def two_hypotheses(
    ids: Sequence[str], labels: list[list[int]], posteriors: tuple[float, float] = (0.25, 0.75)
) -> NBestHypotheses:
    """For each utterance its labels without the last one, and all of them, with these posteriors."""
    tokens = Ragged.of([part for row in labels for part in (row[:-1], row)], np.int16)
    offsets = offsets_of(np.full(len(ids), 2))
    return NBestHypotheses(tuple(ids), offsets, tokens, np.tile(np.array(posteriors, np.float32), len(ids)))
