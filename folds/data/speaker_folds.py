"""Speaker-disjoint folds, balanced in frames, the same for every model and on every machine.

A speaker in two folds would be a leak: held-out distances would be optimistic. The assignment uses no random numbers
and no library, so that fold models trained on different machines hold out the same utterances.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np

from folds.data.dataset import Split
from registry.errors import InputError

FOLD_ASSIGNMENT = 2
"""Version of the assignment, recorded with every run: a blend must not mix fold models with different versions.

1 was scikit-learn's GroupKFold over samples of 100 frames, whose sort was unstable until scikit-learn 1.9: the folds of
speakers of equal size depended on the library's version. 2 is `assign_speakers`, 3 is `utterance_folds`.
"""
FoldBy = Literal["group", "utterance"]
ASSIGNMENTS: dict[FoldBy, int] = {"group": FOLD_ASSIGNMENT, "utterance": 3}
"""The version that a run records, by the unit that its folds keep together."""


def assign_folds(split: Split, folds: int, by: FoldBy = "group") -> np.ndarray:
    """The fold of each utterance, `(N,)` int64, by `speaker_folds` or `utterance_folds`."""
    return speaker_folds(split, folds) if by == "group" else utterance_folds(split, folds)


def speaker_folds(split: Split, folds: int) -> np.ndarray:
    """The fold of each utterance, `(N,)` int64: no speaker in two folds, frames balanced.

    With one fold nothing is held out: every utterance gets -1. Raises InputError for fewer speakers than folds.
    """
    if folds == 1:
        return np.full(len(split), -1, dtype=np.int64)
    frames: Counter[str] = Counter()
    for speaker, length in zip(split.groups, split.lengths.tolist(), strict=True):
        frames[speaker] += length
    if not 1 <= folds <= len(frames):
        raise InputError(
            f"--folds {folds}: expected 1 to {len(frames)}, the number of {split.grouped_by}s in {split.name}"
        )
    fold_of = assign_speakers(frames, folds)
    return np.array([fold_of[speaker] for speaker in split.groups], dtype=np.int64)


def utterance_folds(split: Split, folds: int) -> np.ndarray:
    """The fold of each utterance, `(N,)` int64: every speaker or day is spread evenly over the folds.

    Each group's utterances go to the folds in turn, starting at fold 0 for the first group, fold 1 for the next, etc.
    With one fold nothing is held out, as in `speaker_folds`. Raises InputError for fewer utterances than folds.
    """
    if folds == 1:
        return np.full(len(split), -1, dtype=np.int64)
    if not 1 <= folds <= len(split):
        raise InputError(f"--folds {folds}: expected 1 to {len(split)}, the number of utterances in {split.name}")
    next_fold = {group: number for number, group in enumerate(dict.fromkeys(split.groups))}
    fold_of = np.empty(len(split), np.int64)
    for index, group in enumerate(split.groups):
        fold_of[index] = next_fold[group] % folds
        next_fold[group] += 1
    return fold_of


def speaker_subset(split: Split, indices: np.ndarray, fraction: float) -> np.ndarray:
    """Those of `indices` into `split` that belong to the given fraction of their speakers, rounded up.

    Speakers are taken in the order of a hash of their names, so that smaller subsets are contained in larger ones.
    """
    speaker_of = split.groups
    names = {speaker_of[index] for index in indices.tolist()}
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept = set(ordered[: math.ceil(fraction * len(ordered))])
    return np.array([index for index in indices.tolist() if speaker_of[index] in kept], dtype=np.int64)


def assign_speakers(frames: Mapping[str, int], folds: int) -> dict[str, int]:
    """The fold of each speaker: from most to fewest frames, each goes to the fold with the fewest frames so far.

    Ties between speakers are broken by name, ties between folds in favour of the first. This is the greedy rule of
    Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17 (1969), longest first: no two folds
    differ by more than the largest speaker, and the largest fold is at most 4/3 of the best possible.

    >>> assign_speakers({"a": 7, "b": 7, "c": 6, "d": 6, "e": 5, "f": 5, "g": 4, "h": 4, "i": 4}, 4)
    {'a': 0, 'b': 1, 'c': 2, 'd': 3, 'e': 2, 'f': 3, 'g': 0, 'h': 1, 'i': 0}
    """
    totals = [0] * folds
    fold_of = {}
    for speaker in sorted(frames, key=lambda speaker: (-frames[speaker], speaker)):
        fold = totals.index(min(totals))
        fold_of[speaker] = fold
        totals[fold] += frames[speaker]
    return fold_of
