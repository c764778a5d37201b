"""What is heard for what: edits of an optimal alignment, counted by kind and by pair of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class EditCounts:
    """Counts over utterances; `pairs[true, said]` counts each edit, with 0 for nothing spoken or nothing said."""

    substitutions: int
    insertions: int
    deletions: int
    pairs: dict[tuple[int, int], int]


def count_edits(hypotheses: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> EditCounts:
    """Edits that turn references into hypotheses, on one optimal alignment an utterance.

    >>> count_errors([[1, 2, 4]], [[1, 3, 4, 5]]).pairs
    {(3, 2): 1, (5, 0): 1}
    """
    kinds: Counter[str] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for edit in Levenshtein.editops(list(reference), list(hypothesis)):
            kinds[edit.tag] += 1
            true = 0 if edit.tag == "insert" else reference[edit.src_pos]
            said = 0 if edit.tag == "delete" else hypothesis[edit.dest_pos]
            pairs[true, said] += 1
    return EditCounts(kinds["replace"], kinds["insert"], kinds["delete"], dict(pairs))
