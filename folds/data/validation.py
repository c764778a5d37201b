"""What an utterance must be before it is packed: each fault is one line that names the file and says what to do.

Checks look at one utterance, or at the dimensions of all of them; they read nothing themselves.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from folds.competition.description import Utterances
from registry.errors import InputError, and_more


class Faults:
    """The first fault and the number of others, since one slip of a script may spoil 28,000 files alike."""

    def __init__(self) -> None:
        self._first = ""
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, message: str) -> None:
        self._first = self._first or message
        self._count += 1

    def raise_any(self) -> None:
        if self._count:
            raise InputError(self._first + and_more(self._count - 1, "faults"))




def checked_features(split: Utterances, index: int) -> np.ndarray:
    """Features `(T, F)` of an utterance. `InputError` for another shape, another kind of number, none, or a NaN."""
    features, place = split.features(index), split.place(index)
    todo = "write the file again or remove the utterance"
    if features.ndim != 2 or features.dtype.kind != "f":
        raise InputError(
            f"{place}: found shape {features.shape} of {features.dtype}; "
            f"expected floating-point features (frames, features); {todo}"
        )
    if 0 in features.shape:
        raise InputError(f"{place}: an empty array {features.shape}; expected at least one frame and feature; {todo}")
    finite = np.isfinite(features)
    if not finite.all():
        frame, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{place}: {features[frame, column]} at frame {frame}, feature {column}; expected finite numbers; {todo}"
        )
    return features


def checked_labels(split: Utterances, index: int) -> np.ndarray:
    """Classes `(L,)` of an utterance. `InputError` for an unknown phoneme or for none at all."""
    labels = split.labels(index)
    if not len(labels):
        raise InputError(
            f"{split.place(index)}: its transcript is empty; expected at least one phoneme between the marks; "
            f"write it again or remove the utterance"
        )
    return labels


class FeatureDimensions:
    """The feature dimensions seen so far: all must be one, and the odd one out is named against the majority."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._first: dict[int, str] = {}

    def add(self, dimension: int, place: str) -> None:
        self._counts[dimension] += 1
        self._first.setdefault(dimension, place)

    @property
    def agree(self) -> bool:
        return len(self._counts) < 2

    @property
    def usual(self) -> int:
        return self._counts.most_common(1)[0][0]

    def report(self, faults: Faults) -> None:
        """One fault for all files that differ from the majority."""
        if self.agree:
            return
        (usual, many), (odd, _), *_ = self._counts.most_common()
        others = self._counts.total() - many - 1
        faults.add(
            f"{self._first[odd]}: {odd} features a frame{and_more(others, 'that differ')}; expected {usual} "
            f"as in {many} other files; remove it, or make the features of all files alike"
        )
