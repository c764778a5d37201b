"""A report of four systems on eight short utterances, whose every figure can be counted by hand."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.report_page.details import pack_posteriors
from ensemble.report_page.page import html_page
from ensemble.report_page.payload import comparison_payload
from ensemble.report_page.systems import Comparison, System
from folds.competition.alphabets import F22
from folds.data.dataset import Split
from folds.store.ragged import Ragged

IDS = tuple(f"{speaker}-1-{number:04d}" for number, speaker in enumerate((11, 11, 22, 22, 22, 11, 33, 33)))
REFERENCES = ["AA IY", "IY IH S", "S T AA IY", "T AA S IH IY", "AA IY S T K IH", "IH IH S T AA K", "", ""]
CHANGES: dict[str, dict[int, str]] = {
    "x.csv": {1: "IY IY S", 5: "IY IY S T AA K"},
    "a": {1: "IY IY S", 3: "T AA S IH IY K", 4: "AA IY S K IH", 5: "IY IY S T AA K", 6: "K"},
    "b": {0: "AE IY", 5: "IY IH S T AA K"},
    "perfect_" + "long_" * 12: {},
}
"""What each system recognises where it is wrong: the blend, and three members."""
PERFECT = list(CHANGES)[3]
WEIGHTS = [None, 3.0, 1.0, 0.0]
FEATURES = np.array([[0, 100, 255], [50, 200, 150]], np.uint8)
DETAILED, BARE = 5, (2, 7)
"""The utterance with features and posteriors, and those without hypotheses."""


def tokens(text: str) -> list[int]:
    return [F22.phonemes.index(name) for name in text.split()]


def posteriors() -> np.ndarray:
    """Three frames: IH, blank, and IY more probable than IH."""
    probabilities = np.zeros((3, F22.classes))
    probabilities[0, tokens("IH")] = 0.9
    probabilities[2, tokens("IY IH AA")] = 0.7, 0.2, 0.04
    return probabilities


def small_comparison(labelled: bool = True, weights: list[float | None] = WEIGHTS) -> Comparison:
    """The systems with their weights in the blend, or without weights."""
    targets = [tokens(text) for text in REFERENCES]
    frames = Ragged(np.zeros((8 * 4, 3), np.float32), np.arange(9) * 4)
    split = Split("dev" if labelled else "test", IDS, frames, Ragged.of(targets, np.int16) if labelled else None)
    systems = []
    for (name, changes), weight in zip(CHANGES.items(), weights, strict=True):
        hypotheses = [tokens(changes.get(row, text)) for row, text in enumerate(REFERENCES)]
        systems.append(System(name, "member" if systems else "blend", hypotheses, weight))
    weighted_by = None if weights[1] is None else "x.csv"
    return Comparison(split, systems, targets if labelled else systems[0].hypotheses, weighted_by)


def small_data(comparison: Comparison, **changes: Any) -> dict[str, Any]:
    """What the script of the page shows."""
    data = comparison_payload(comparison, F22)
    for row in BARE:
        data["targets"][row] = data["edits"][row] = None
    members = [system.name for system in comparison.systems if system.kind == "member"]
    packed = base64.b64encode(FEATURES.tobytes()).decode()
    detail = {
        "features": {"frames": 2, "step": 2, "data": packed},
        "posteriors": [pack_posteriors(posteriors()) for _ in members],
    }
    curves = [("a fold 0", 0, [30, 20, 10]), ("a fold 1", 0, [28, 18, 12]), ("b fold 0", 1, [40, 24, 11])]
    scores = [("s1.csv", 10.0, 9.5, None, 10.4, None), ("s2.csv", None, 9.0, 9.25, 9.1, 9.3)]
    return data | {
        "members": members,
        "curves": [{"name": n, "member": m, "points": list(enumerate(values, 1))} for n, m, values in curves],
        "scores": [
            dict(zip(("file", "nested", "oof", "dev", "public", "private"), score, strict=True)) for score in scores
        ],
        "compare": [],
        "intervals": "3 speakers",
        "details": {DETAILED: detail},
        **changes,
    }


def write_page(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(html_page("small", "4 systems", {}, data), encoding="utf-8")
    return path


def small_page(path: Path) -> Path:
    return write_page(path, small_data(small_comparison()))


def bare_page(path: Path) -> Path:
    """Without transcripts, weights, speakers, curves, scores and details."""
    comparison = small_comparison(labelled=False, weights=[None] * 4)
    return write_page(path, small_data(comparison, speakers=None, curves=[], scores=[], details={}))


def single_page(path: Path) -> Path:
    """One member alone, whose data name no speakers."""
    whole = small_comparison()
    alone = Comparison(whole.split, whole.systems[1:2], whole.targets)
    return write_page(path, small_data(alone, speakers=None, curves=[], scores=[]))
