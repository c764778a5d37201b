"""Arrays of unequal length stored as one: all values in one array, and offsets that say where each part begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


def offsets_of(lengths: Iterable[int] | np.ndarray) -> np.ndarray:
    """Offsets `(N + 1,)` int64 of parts with these lengths `(N,)`.

    >>> offsets_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    sizes = np.asarray(lengths if isinstance(lengths, np.ndarray) else list(lengths), np.int64)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


@dataclass(frozen=True, eq=False)
class Ragged:
    """N arrays: part `i` is `values[offsets[i]:offsets[i + 1]]`.

    `values` `(sum of lengths, …)`, `offsets` `(N + 1,)` int64.

    >>> ragged = Ragged.of([[1, 2], [], [3]], np.int16)
    >>> ragged[2].tolist(), ragged.lengths.tolist(), ragged.take([2, 0]).values.tolist()
    ([3], [2, 0, 1], [3, 1, 2])
    """

    values: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(parts: Sequence[Sequence[float]] | Sequence[np.ndarray], dtype: type | np.dtype) -> Ragged:
        """Pack one-dimensional parts."""
        flat = [np.asarray(part, dtype) for part in parts]
        return Ragged(np.concatenate([np.zeros(0, dtype), *flat]), offsets_of(len(part) for part in flat))

    @staticmethod
    def concatenate(parts: Sequence[Ragged]) -> Ragged:
        """The arrays of the first of `parts`, then those of the second, and so on; `parts` must not be empty.

        >>> Ragged.concatenate([Ragged.of([[1], [2, 3]], np.int16), Ragged.of([[4]], np.int16)])[2].tolist()
        [4]
        """
        lengths = np.concatenate([part.lengths for part in parts])
        return Ragged(np.concatenate([part.values for part in parts]), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """One part, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of each part, `(N,)` int64."""
        return np.diff(self.offsets)

    def rows_of(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `values` with the parts at `indices`, in that order, and the parts' offsets among these rows."""
        chosen = np.asarray(indices, np.int64)
        lengths = self.lengths[chosen]
        offsets = offsets_of(lengths)
        return np.repeat(self.offsets[chosen] - offsets[:-1], lengths) + np.arange(offsets[-1]), offsets

    def range(self, first: int, last: int) -> Ragged:
        """The parts `first` to `last - 1`; their values are a view."""
        offsets = self.offsets[first : last + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, indices: Sequence[int] | np.ndarray) -> Ragged:
        """The parts at `indices`, in that order."""
        rows, offsets = self.rows_of(indices)
        return Ragged(self.values[rows], offsets)
