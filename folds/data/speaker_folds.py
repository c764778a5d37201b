"""Folds without a common speaker, balanced in frames, the same for every model and on every machine.

A speaker in two folds would leak: held-out distances would flatter the model. The assignment uses no random numbers
and no library, so that fold models trained on different machines hold out the same utterances.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from folds.data.dataset import Split
from registry.errors import InputError

FOLD_ASSIGNMENT = 2
"""Version of the assignment, recorded with every run: a blend must not mix fold models of different ones.

1 was scikit-learn's GroupKFold over samples of 100 frames, whose sort was unstable until scikit-learn 1.9: speakers of
equal size changed folds with the library's version. 2 is `assign_speakers`.
"""


def speaker_folds(split: Split, folds: int) -> np.ndarray:
    """The fold of each utterance, `(N,)` int64: no speaker in two folds, frames balanced.

    With one fold nothing is held out: every utterance gets -1. Raises InputError for fewer speakers than folds.
    """
    if folds == 1:
        return np.full(len(split), -1, dtype=np.int64)
    frames: Counter[str] = Counter()
    for speaker, length in zip(split.speakers, split.lengths.tolist(), strict=True):
        frames[speaker] += length
    if not 1 <= folds <= len(frames):
        raise InputError(f"--folds {folds}: expected 1 to {len(frames)}, the number of speakers in {split.name}")
    fold_of = assign_speakers(frames, folds)
    return np.array([fold_of[speaker] for speaker in split.speakers], dtype=np.int64)


def speaker_subset(split: Split, indices: np.ndarray, fraction: float) -> np.ndarray:
    """Those of `indices` into `split` that belong to this fraction of their speakers, rounded up.

    Speakers are taken in the order of a hash of their names, so that smaller fractions are contained in larger ones.
    """
    speaker_of = split.speakers
    names = {speaker_of[index] for index in indices.tolist()}
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept = set(ordered[: math.ceil(fraction * len(ordered))])
    return np.array([index for index in indices.tolist() if speaker_of[index] in kept], dtype=np.int64)


def assign_speakers(frames: Mapping[str, int], folds: int) -> dict[str, int]:
    """The fold of each speaker: from the most frames to the fewest, each to the fold with the fewest frames so far.

    Speakers with equally many frames go by name, and of equally filled folds the first is chosen. This is the greedy
    rule of Graham, "Bounds on Multiprocessing Timing Anomalies", SIAM J. Appl. Math. 17 (1969), longest first: no two
    folds differ by more than the largest speaker, and the largest fold is at most 4/3 of the best possible.

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
