"""The data embedded in the page, as JSON: figures of all systems, and what they recognised in each utterance.

Sequences are text, one character per class from `symbols`, and a hypothesis is stored as its edits to the target, so
that 2,620 utterances of 20 systems take a few MB. If they would take more, only distances are stored for the easiest
utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.report_page.systems import Comparison
from ensemble.statistics.confusions import (
    Edit,
    EditCounts,
    edits_by_position,
    phonemes_by_position,
    wrong_phonemes,
)
from ensemble.statistics.diversity import error_correlation, near_copies, only_right
from folds.competition.alphabets import Alphabet
from folds.competition.bootstrap import paired_intervals

HYPOTHESES_BYTES = 4_000_000
"""Maximum size of all targets and edits together."""
POSITIONS = 10
"""Number of equal parts of an utterance, for errors by position."""


def symbols(count: int) -> str:
    """Characters for the numbers 0 to `count` - 1, none of which JSON or HTML would escape."""
    printable = [chr(code) for code in range(33, 127) if chr(code) not in "\"'\\<>&"]
    return "".join([*printable, *(chr(0x100 + extra) for extra in range(max(count - len(printable), 0)))][:count])


def encode_edits(edits: Sequence[Edit], classes: int, alphabet: str) -> str:
    """Edits as pairs of characters: the offset from the previous edit, and what was recognised.

    Number 0 stands for a deletion, a class for a substitution, and a class plus `classes` for an insertion.
    """
    text, last = [], 0
    for edit in edits:
        text.append(alphabet[edit.at - last])
        text.append(alphabet[edit.recognised + (classes if edit.kind == "insert" else 0)])
        last = edit.at
    return "".join(text)


def comparison_payload(comparison: Comparison, alphabet: Alphabet) -> dict[str, Any]:
    """Figures for all systems and utterances."""
    split, lengths = comparison.split, comparison.lengths
    content = {
        "split": split.name,
        "labelled": comparison.labelled,
        "phonemes": list(alphabet.phonemes),
        "systems": [{"name": s.name, "kind": s.kind, "weight": s.weight} for s in comparison.systems],
        "weightedBy": comparison.weighted_by,
        "ids": split.ids,
        "speakers": comparison.groups,
        "lengths": lengths.tolist(),
        "distances": comparison.distances.tolist(),
        "disagreement": comparison.disagreement.round(2).tolist(),
        "pairwise": comparison.pairwise.mean(axis=2).round(4).tolist(),
        **_sequences(comparison, alphabet.classes),
    }
    return content | _error_figures(comparison, alphabet.classes) if comparison.labelled else content


def _sequences(comparison: Comparison, classes: int) -> dict[str, Any]:
    """Targets and edits, hardest utterances first until HYPOTHESES_BYTES are used up; None for the others."""
    alphabet = symbols(max(2 * classes, int(comparison.lengths.max(initial=0)) + 2))
    targets: list[str | None] = [None] * len(comparison.targets)
    edits: list[list[str] | None] = [None] * len(comparison.targets)
    size = 0
    for row in comparison.hardest_first.tolist():
        target = "".join(alphabet[token] for token in comparison.targets[row])
        row_edits = [encode_edits(system[row], classes, alphabet) for system in comparison.edits]
        size += sum(len(text.encode()) + 3 for text in (target, *row_edits))
        if size > HYPOTHESES_BYTES:
            break
        targets[row], edits[row] = target, row_edits
    return {"symbols": alphabet, "targets": targets, "edits": edits}


def _error_figures(comparison: Comparison, classes: int) -> dict[str, Any]:
    """Figures that need references."""
    counts = [EditCounts.of(edits) for edits in comparison.edits]
    wrong = np.array([wrong_phonemes(edits, comparison.lengths) for edits in comparison.edits])
    intervals = paired_intervals(comparison.distances, comparison.groups)
    correlation = error_correlation(wrong)
    tokens = np.concatenate([np.array(target, np.int64) for target in comparison.targets])
    return {
        "counts": [[c.substitutions, c.insertions, c.deletions] for c in counts],
        "confusions": [[[*pair, count] for pair, count in sorted(c.pairs.items())] for c in counts],
        "phonemeCounts": np.bincount(tokens, minlength=classes).tolist(),
        "positions": [edits_by_position(e, comparison.lengths, POSITIONS).tolist() for e in comparison.edits],
        "positionTotals": phonemes_by_position(comparison.lengths, POSITIONS).tolist(),
        "correlation": [[None if np.isnan(c) else round(float(c), 4) for c in row] for row in correlation],
        "differences": [[[round(x, 6) for x in (i.mean, i.low, i.high)] for i in row] for row in intervals],
        "redundancy": _redundancy(comparison, wrong),
    }


def _redundancy(comparison: Comparison, wrong: np.ndarray) -> list[dict[str, Any]]:
    """Per member: its system, how many phonemes only it has right, and the system that it nearly copies, or None."""
    members = comparison.members
    distances = comparison.pairwise.mean(axis=2)[np.ix_(members, members)]
    copies = near_copies(distances, comparison.distances.mean(axis=1)[members])
    alone = only_right(wrong[members])
    return [
        {"system": system, "alone": int(alone[k]), "copy": members[copies[k]] if k in copies else None}
        for k, system in enumerate(members)
    ]
