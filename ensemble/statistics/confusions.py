"""Which phonemes are confused: the edits of an optimal alignment, counted by kind, by pair and by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import Levenshtein
import numpy as np


class Edit(NamedTuple):
    """One edit that turns a reference into a hypothesis; class 0 stands for no phoneme on that side."""

    kind: str
    """`replace`, `insert` or `delete`."""
    at: int
    """Index in the reference; an insertion comes before the phoneme at this index."""
    expected: int
    recognised: int


def list_edits(hypothesis: Sequence[int], reference: Sequence[int]) -> list[Edit]:
    """The edits that turn the reference into the hypothesis, along one optimal alignment, in the reference's order.

    >>> list_edits([1, 2, 4], [1, 3, 4, 5])
    [Edit(kind='replace', at=1, expected=3, recognised=2), Edit(kind='delete', at=3, expected=5, recognised=0)]
    """
    return [
        Edit(
            kind,
            at_reference,
            0 if kind == "insert" else reference[at_reference],
            0 if kind == "delete" else hypothesis[at_hypothesis],
        )
        for kind, at_reference, at_hypothesis in Levenshtein.editops(list(reference), list(hypothesis))
    ]


@dataclass(frozen=True)
class EditCounts:
    """Edits counted over utterances.

    `pairs[reference, hypothesis]` counts the edits by their two classes; class 0 stands for no phoneme on that side.
    """

    substitutions: int
    insertions: int
    deletions: int
    pairs: dict[tuple[int, int], int]

    @staticmethod
    def of(edits: Iterable[Sequence[Edit]]) -> EditCounts:
        """Count the edits of all utterances."""
        flat = [edit for utterance in edits for edit in utterance]
        kinds = Counter(edit.kind for edit in flat)
        pairs = Counter((edit.expected, edit.recognised) for edit in flat)
        return EditCounts(kinds["replace"], kinds["insert"], kinds["delete"], dict(pairs))


def wrong_phonemes(edits: Sequence[Sequence[Edit]], lengths: np.ndarray) -> np.ndarray:
    """Which reference phonemes are substituted or deleted, bool (sum of `lengths`,), utterances concatenated."""
    wrong = np.zeros(int(lengths.sum()), bool)
    for start, utterance in zip(np.cumsum(lengths) - lengths, edits, strict=True):
        wrong[[start + edit.at for edit in utterance if edit.kind != "insert"]] = True
    return wrong


def edits_by_position(edits: Sequence[Sequence[Edit]], lengths: np.ndarray, bins: int) -> np.ndarray:
    """Number of edits in each of `bins` equal parts of the utterances, from beginning to end, (bins,) int64.

    Insertions after the last phoneme count in the last part; utterances without phonemes count in the first.
    """
    parts = [
        min(edit.at * bins // max(int(length), 1), bins - 1)
        for length, utterance in zip(lengths, edits, strict=True)
        for edit in utterance
    ]
    return np.bincount(np.array(parts, np.int64), minlength=bins)


def phonemes_by_position(lengths: np.ndarray, bins: int) -> np.ndarray:
    """Number of reference phonemes in each of the parts of `edits_by_position`, (bins,) int64."""
    parts = [np.arange(length) * bins // length for length in lengths.tolist() if length]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *parts]), minlength=bins)
