"""Cross-validation distances and leaderboard scores, from the ledger that `python -m submit` keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from registry.json_files import read_json_lines


class _Results(Struct):
    nested: float | None = None
    oof: float | None = None
    dev: float | None = None


class _LedgerLine(Struct):
    event: str
    id: str
    file: str = ""
    blend: _Results = field(default_factory=_Results)
    public_score: str | None = None
    private_score: str | None = None


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Scored submissions, oldest first: file, `nested`, `oof`, `dev`, `public` and `private`, None where unknown.

    A ledger that does not exist has none. Raises InputError, naming the line, for a damaged ledger.
    """
    if not path.exists():
        return []
    submissions: dict[str, dict[str, Any]] = {}
    for event in read_json_lines(path, _LedgerLine, any_torn=True):
        if event.event == "attempt":
            results = event.blend
            estimates = {"nested": results.nested, "oof": results.oof, "dev": results.dev}
            submissions[event.id] = {"file": Path(event.file).name, **estimates, "public": None, "private": None}
        elif event.event == "score" and event.id in submissions:
            scores = {"public": _number(event.public_score), "private": _number(event.private_score)}
            submissions[event.id].update(scores)
    return [submission for submission in submissions.values() if submission["public"] is not None]


def _number(text: str | None) -> float | None:
    """A score from Kaggle's text; None if it is empty or not a finite number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
