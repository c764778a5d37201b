"""Parts of the training utterances for nested fits, and language models estimated without a part's speakers.

A language model that scores an out-of-fold utterance must not have been estimated on its transcript, nor on its
speaker's other transcripts, because one speaker reads one book: each part has a language model of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ensemble.lm.ngram import PhoneLM, estimate
from folds.data.dataset import Dataset

# The number of parts when all out-of-fold predictions come from one fold.
SPEAKER_PARTS = 4


def nested_parts(folds: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The part of each utterance, (N,) from 0, and notes: the folds, or groups of speakers where there is one fold.

    >>> nested_parts(np.array([3, 1, 3]), ["a", "b", "a"])[0].tolist()
    [1, 0, 1]
    """
    if len(np.unique(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1], []
    if len(set(speakers)) == 1:
        note = f"  one fold of one speaker only: nested distances are over {SPEAKER_PARTS} groups of utterances"
        return np.arange(len(speakers)) % min(SPEAKER_PARTS, len(speakers)), [note]
    numbers = {speaker: number for number, speaker in enumerate(sorted(set(speakers)))}
    parts = np.unique([numbers[speaker] % SPEAKER_PARTS for speaker in speakers], return_inverse=True)[1]
    note = f"  one fold only: nested distances are over {parts.max() + 1} groups of speakers instead of folds"
    return parts, [note]


def language_models(dataset: Dataset, speakers: Sequence[str], parts: np.ndarray, order: int) -> tuple[PhoneLM, ...]:
    """One phone language model per part, without its speakers; `speakers` and `parts` (N,) are the utterances'."""
    by_part = [set(np.asarray(speakers)[parts == part].tolist()) for part in range(parts.max() + 1)]
    return tuple(language_model(dataset, order, without) for without in by_part)


def language_model(dataset: Dataset, order: int, without: Collection[str] = ()) -> PhoneLM:
    """A phone language model of the training transcripts; those of the speakers `without` are left out."""
    train = dataset.train
    rows = [row for row, speaker in enumerate(train.speakers) if speaker not in without]
    return estimate([train.labels(row).tolist() for row in rows], dataset.alphabet.classes, order)
