"""A report with planted faults: a confusion, a bad speaker, a useless member, a copy, and ids that are HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simulated_members as simulated

from ensemble.report_page.details import pack_details
from ensemble.report_page.page import html_page, note, table
from ensemble.report_page.payload import comparison_payload
from ensemble.report_page.systems import Comparison, System
from folds.competition.alphabets import F22
from folds.data.dataset import Split
from folds.store.ragged import Ragged

SPEAKERS = ("1001", "1002", "1003", "<b>4", "666")
BAD_SPEAKER = "666"
EXPECTED, RECOGNISED = (F22.phonemes.index(name) for name in ("IH", "IY"))
HOSTILE = "1001-</script><script>document.title='broken'</script>"
UTTERANCES = 60
LENGTH = 30


def references(seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, F22.classes, int(rng.integers(LENGTH // 2, LENGTH))).tolist() for _ in range(UTTERANCES)]


def corrupted(sequence: list[int], wrong: np.ndarray, rng: np.random.Generator) -> list[int]:
    """The sequence with an edit at every place that is wrong, and the planted confusion at 2 of 3 of its places."""
    tokens: list[int] = []
    for place, (token, is_wrong) in enumerate(zip(sequence, wrong.tolist(), strict=True)):
        other = int(rng.integers(1, F22.classes - 1))
        kind = rng.random()
        if token == EXPECTED and place % 3:
            tokens.append(RECOGNISED)
        elif not is_wrong:
            tokens.append(token)
        elif kind < 0.6:
            tokens.append(other + (other >= token))
        elif kind < 0.8:
            tokens += [token, other]
    return tokens


def planted_split(labelled: bool = True) -> Split:
    """The utterances: speaker after speaker, each with random features."""
    rng = np.random.default_rng(1)
    ids = [f"{SPEAKERS[row % len(SPEAKERS)]}-1-{row:04d}" for row in range(UTTERANCES)]
    ids[0] = HOSTILE
    ids[5] = "1001-=1+1"
    offsets = np.arange(UTTERANCES + 1) * 8 * LENGTH
    frames = Ragged(rng.normal(size=(offsets[-1], 13)).astype(np.float32), offsets)
    tokens = Ragged.of(references(), np.int16) if labelled else None
    return Split("dev" if labelled else "test", tuple(ids), frames, tokens)


def planted_comparison(labelled: bool = True) -> Comparison:
    """A blend, and the members good, other, copy (of good) and useless (wrong wherever another is, and more)."""
    split, targets = planted_split(labelled), references()
    rng = np.random.default_rng(2)
    rates = [0.35 if speaker == BAD_SPEAKER else 0.08 for speaker in split.groups]
    good = [rng.random(len(target)) < rate for target, rate in zip(targets, rates, strict=True)]
    other = [rng.random(len(target)) < 1.2 * rate for target, rate in zip(targets, rates, strict=True)]
    useless = [a | b | (rng.random(len(a)) < 0.3) for a, b in zip(good, other, strict=True)]

    def system(wrong: list[np.ndarray], seed: int) -> list[list[int]]:
        return [
            corrupted(target, of_row, np.random.default_rng((seed, row)))
            for row, (target, of_row) in enumerate(zip(targets, wrong, strict=True))
        ]

    of_good = system(good, 3)
    copy = [[*tokens[:-1], 1 + tokens[-1] % 40] if row % 4 == 0 else tokens for row, tokens in enumerate(of_good)]
    systems = [
        System("submission.csv", "blend", system([a & b for a, b in zip(good, other, strict=True)], 3)),
        System("good", "member", of_good, 0.6),
        System("other", "member", system(other, 4), 0.4),
        System("copy", "member", copy, 0.0),
        System("useless", "member", system(useless, 3), 0.0),
    ]
    return Comparison(split, systems, targets if labelled else systems[0].hypotheses, "submission.csv")


def planted_data(comparison: Comparison, **changes: Any) -> dict[str, Any]:
    """What the script of the page shows."""
    names = sorted(system.name for system in comparison.systems if system.kind == "member")
    log_probs = {
        name: [simulated.log_probs(references(), classes=F22.classes, seed=seed, ids=comparison.split.ids)]
        for seed, name in enumerate(names)
    }
    inputs = simulated.inputs(log_probs, references())
    rows = comparison.hardest_first[:12].tolist()
    points = [[epoch, 10 + 20 / epoch] for epoch in range(1, 13)]
    scores = [
        {"file": f"s{k}.csv", "nested": 10 - k, "oof": 9.9 - k, "dev": None, "public": 10.4 - k, "private": None}
        for k in range(3)
    ]
    return comparison_payload(comparison, F22) | {
        "members": names,
        "curves": [{"name": f"{name} fold 0", "member": k, "points": points} for k, name in enumerate(names)],
        "scores": scores,
        "compare": [],
        "intervals": "5 speakers, too few for reliable intervals",
        "details": pack_details(inputs, comparison.split, rows, 10**6),
        **changes,
    }


def planted_page(path: Path, labelled: bool = True, **changes: Any) -> Path:
    """Write the page and return its path."""
    comparison = planted_comparison(labelled)
    distances = comparison.distances.mean(axis=1)
    names = [system.name for system in comparison.systems]
    board = pd.DataFrame({"system": names, "parameters": [900, 12000, 3000, 1000, 2000], "dev, with LM": distances})
    bodies = {"headline": note("<i>headline</i>"), "leaderboard": table(board), "notes": note("A note.")}
    data = planted_data(comparison, **changes)
    path.write_text(html_page("planted <i>", "5 systems", bodies, data), encoding="utf-8")
    return path
