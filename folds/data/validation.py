"""Checks of each utterance before packing: an error is one line that names the file and says what to do."""

from __future__ import annotations

from collections import Counter

import numpy as np

from registry.errors import InputError, and_more

MAX_FEATURE = 1e9
"""Largest accepted absolute value of a feature. Values above 1e154 overflow when normalisation squares them; cepstra
are at most a few thousand, so larger numbers mean a damaged file or the wrong byte order."""


class Faults:
    """The first fault and the number of others: one bug in a script may affect 28,000 files."""

    def __init__(self) -> None:
        self._first = ""
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, message: str) -> None:
        self._first = self._first or message
        self._count += 1

    def raise_any(self) -> None:
        """Raise InputError if a fault was added."""
        if self:
            raise InputError(self._first + and_more(self._count - 1, "faults"))


def checked_features(features: np.ndarray, location: str) -> np.ndarray:
    """The same features, if they are finite floats `(T, F)` with T and F at least 1; else raises InputError."""
    remedy = "write the file again or remove the utterance"
    if features.ndim != 2 or features.dtype.kind != "f":
        raise InputError(
            f"{location}: found shape {features.shape} of {features.dtype}; "
            f"expected floating-point features (frames, features); {remedy}"
        )
    if 0 in features.shape:
        raise InputError(
            f"{location}: an empty array {features.shape}; expected at least one frame and feature; {remedy}"
        )
    if features.dtype.itemsize > 8:
        features = features.astype(np.float64)
    finite = np.isfinite(features)
    if not finite.all():
        frame, column = np.argwhere(~finite)[0]
        value = features[frame, column]
        raise InputError(
            f"{location}: {value} at frame {frame}, feature {column}; expected finite numbers; {remedy}"
        )
    if (largest := float(np.abs(features).max())) > MAX_FEATURE:
        raise InputError(
            f"{location}: a feature of {largest:g}; expected at most {MAX_FEATURE:g}; {remedy}"
        )
    return features


def checked_labels(labels: np.ndarray, location: str) -> np.ndarray:
    """Return the labels `(L,)` if there are any; else raise InputError."""
    if not len(labels):
        raise InputError(
            f"{location}: its transcript is empty; expected at least one phoneme between the marks; "
            f"write it again or remove the utterance"
        )
    return labels


def checked_text(text: str, location: str) -> str:
    """Return the sentence if it is one line of text with words; else raise InputError."""
    if not text.strip() or not text.isprintable():
        raise InputError(
            f"{location}: its sentence is {text[:40]!r}; expected one line of text; "
            f"write it again or remove the utterance"
        )
    return text


class FeatureDimensions:
    """The feature dimensions of the utterances so far, which must all be the same."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._first: dict[int, str] = {}

    def add(self, dimension: int, location: str) -> None:
        self._counts[dimension] += 1
        self._first.setdefault(dimension, location)

    @property
    def agree(self) -> bool:
        return len(self._counts) < 2

    @property
    def usual(self) -> int:
        """The dimension of the majority."""
        return self._counts.most_common(1)[0][0]

    def report(self, faults: Faults) -> None:
        """Add one fault for all files that differ from the majority, naming the first."""
        if self.agree:
            return
        (usual, count), (other, _), *_ = self._counts.most_common()
        more = self._counts.total() - count - 1
        faults.add(
            f"{self._first[other]}: {other} features per frame{and_more(more, 'that differ')}; expected {usual} "
            f"as in {count} other files; remove it, or give all files the same features"
        )
