"""The ledger as a table of attempts, with cross-validated distances beside leaderboard scores, and as a plot.

Reads attempts only; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from registry.console import print_table
from registry.errors import atomic_write
from submit.advice import shorten
from submit.check import method_of
from submit.ledger import Attempt

COLUMNS = ("date", "competition", "file", "recipe", "OOF", "dev", "public", "private", "public-OOF", "ref", "status")
_FORMATS = {"OOF": "{:.3f}", "dev": "{:.3f}", "public-OOF": "{:+.3f}"}


def attempts_table(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """One row per attempt, oldest first. Distances and scores are mean edit distances: lower is better.

    `public` and `private` are text as given by Kaggle; `OOF`, `dev` and `public-OOF` are numbers, NaN where unknown.
    """
    table = pd.DataFrame(
        {
            "date": [attempt.date for attempt in attempts],
            "competition": [attempt.competition for attempt in attempts],
            "file": [Path(attempt.file).name for attempt in attempts],
            "recipe": [shorten(method_of(attempt.blend) or attempt.message, 40) for attempt in attempts],
            "OOF": _numbers([attempt.blend.get("oof") for attempt in attempts]),
            "dev": _numbers([attempt.blend.get("dev") for attempt in attempts]),
            "public": [attempt.public_score for attempt in attempts],
            "private": [attempt.private_score for attempt in attempts],
            "ref": [str(attempt.ref or "") for attempt in attempts],
            "status": [_status(attempt) for attempt in attempts],
        }
    )
    table["public-OOF"] = _numbers(table["public"]) - table["OOF"]
    return table[list(COLUMNS)]


def print_attempts(attempts: Sequence[Attempt]) -> None:
    """Print the table, with `-` for what is unknown."""
    table = attempts_table(attempts)
    for column, pattern in _FORMATS.items():
        table[column] = [pattern.format(value) if pd.notna(value) else "" for value in table[column]]
    print_table(COLUMNS, table.replace("", "-").to_numpy())


def plot_attempts(attempts: Sequence[Attempt], path: Path) -> int:
    """Plot OOF and dev distance against public score to a PNG; return the number of attempts in it, 0 for no plot."""
    table = attempts_table(attempts)
    table["public"] = _numbers(table["public"])
    scored = table.dropna(subset=["public"]).dropna(subset=["OOF", "dev"], how="all")
    if scored.empty:
        return 0
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6), layout="constrained")
    for column, marker in (("OOF", "o"), ("dev", "s")):
        points = scored.dropna(subset=[column])
        if not points.empty:
            axes.scatter(points[column], points["public"], marker=marker, label=column)
        for distance, score, ref in zip(points[column], points["public"], points["ref"], strict=True):
            axes.annotate(ref, (distance, score), textcoords="offset points", xytext=(5, 5), fontsize=8)
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot((low, high), (low, high), linestyle=":", color="grey", label="equal")
    axes.set(xlabel="our mean edit distance", ylabel="public score", title="cross-validation against leaderboard")
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
    return len(scored)


def _status(attempt: Attempt) -> str:
    status = attempt.status.lower() or attempt.state
    if attempt.reason and (attempt.state != "submitted" or status == "error"):
        status += f": {attempt.reason}"
    return status


def _numbers(values: Sequence[object] | pd.Series) -> pd.Series:
    """Distances as floats; Kaggle gives scores as text, empty when there is none."""
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(float)
