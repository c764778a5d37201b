"""Outer folds of nested cross-validation over the training utterances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The number of outer folds when all out-of-fold predictions come from one training fold.
OUTER_FOLDS = 4


def assign_outer_folds(folds: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The outer fold of each utterance in nested cross-validation, (N,) int64 from 0, and notes for the user.

    Outer folds are the training `folds` (N,), or groups of speakers if there is only one training fold.

    >>> assign_outer_folds(np.array([3, 1, 3]), ["a", "b", "a"])[0].tolist()
    [1, 0, 1]
    """
    if len(np.unique(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1], []
    if len(set(speakers)) == 1:
        groups = min(OUTER_FOLDS, len(speakers))
        note = f"  one fold of one speaker only: nested distances are over {groups} groups of utterances"
        return np.arange(len(speakers)) % groups, [note]
    numbers = {speaker: number for number, speaker in enumerate(sorted(set(speakers)))}
    outer_folds = np.unique([numbers[speaker] % OUTER_FOLDS for speaker in speakers], return_inverse=True)[1]
    note = f"  one fold only: nested distances are over {outer_folds.max() + 1} groups of speakers instead of folds"
    return outer_folds, [note]
