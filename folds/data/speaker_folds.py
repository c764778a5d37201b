"""Speaker-disjoint folds, balanced in frames, the same for every model.

A fold that splits a speaker leaks: its held-out distance flatters the member. No randomness is involved, so members
trained on different machines agree.
"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import GroupKFold

from folds.data.dataset import Split
from registry import InputError

# Frames one sample of the partition stands for: folds are balanced to about this much.
GRAIN = 100


def speaker_folds(split: Split, folds: int) -> np.ndarray:
    """The fold of each utterance, int64 `(N,)`, no speaker in two folds, frames balanced.

    One fold is no partition: all get -1, so that every utterance is fitted and none held out. Raises InputError when
    there are fewer speakers than folds.
    """
    if folds == 1:
        return np.full(len(split), -1, dtype=np.int64)
    speakers = np.asarray(split.speakers)
    known = np.unique(speakers)
    if folds < 1 or folds > len(known):
        raise InputError(f"--folds {folds}: expected 1 to {len(known)}, the number of speakers in {split.name}")
    weights = np.maximum(1, split.lengths // GRAIN)
    samples = np.repeat(speakers, weights)
    fold_of = {}
    for fold, (_, held_out) in enumerate(GroupKFold(n_splits=folds).split(samples, groups=samples)):
        fold_of.update(dict.fromkeys(np.unique(samples[held_out]).tolist(), fold))
    return np.array([fold_of[speaker] for speaker in speakers.tolist()], dtype=np.int64)
