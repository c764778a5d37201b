"""Which phonemes are taken for which: the edits of an optimal alignment, counted by kind and by pair of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import Levenshtein


@dataclass(frozen=True)
class EditCounts:
    """Edits counted over utterances.

    `pairs[reference, hypothesis]` counts the edits by their two classes; class 0 stands for no phoneme on that side.
    """

    substitutions: int
    insertions: int
    deletions: int
    pairs: dict[tuple[int, int], int]


def count_edits(hypotheses: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> EditCounts:
    """Count the edits that turn references into hypotheses, on one optimal alignment per utterance.

    >>> count_edits([[1, 2, 4]], [[1, 3, 4, 5]]).pairs
    {(3, 2): 1, (5, 0): 1}
    """
    kinds: Counter[str] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for kind, at_reference, at_hypothesis in Levenshtein.editops(list(reference), list(hypothesis)):
            kinds[kind] += 1
            expected = 0 if kind == "insert" else reference[at_reference]
            recognised = 0 if kind == "delete" else hypothesis[at_hypothesis]
            pairs[expected, recognised] += 1
    return EditCounts(kinds["replace"], kinds["insert"], kinds["delete"], dict(pairs))
