"""Show the ledger as a table and a plot that compare cross-validated distances with leaderboard scores.

This module does not change the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from registry.console import print_table
from registry.files import atomic_write
from submit.advice import shorten
from submit.check import describe_method
from submit.ledger import Attempt

COLUMNS = ("date", "competition", "file", "recipe", "OOF", "dev", "public", "private", "public-OOF", "ref", "status")
_FORMATS = {"OOF": "{:.3f}", "dev": "{:.3f}", "public-OOF": "{:+.3f}"}


def build_table(attempts: Sequence[Attempt]) -> pd.DataFrame:
    """Build a table with one row per attempt, oldest first.

    Distances and scores are mean edit distances: lower is better.
    `public` and `private` are text as given by Kaggle; `OOF`, `dev` and `public-OOF` are numbers, NaN where unknown.
    """
    table = pd.DataFrame(
        {
            "date": [attempt.date for attempt in attempts],
            "competition": [attempt.competition for attempt in attempts],
            "file": [Path(attempt.file).name for attempt in attempts],
            "recipe": [shorten(describe_method(attempt.blend) or attempt.message, 40) for attempt in attempts],
            "OOF": _to_floats([attempt.blend.get("oof") for attempt in attempts]),
            "dev": _to_floats([attempt.blend.get("dev") for attempt in attempts]),
            "public": [attempt.public_score for attempt in attempts],
            "private": [attempt.private_score for attempt in attempts],
            "ref": [str(attempt.ref or "") for attempt in attempts],
            "status": [_format_status(attempt) for attempt in attempts],
        }
    )
    table["public-OOF"] = _to_floats(table["public"]) - table["OOF"]
    return table[list(COLUMNS)]


def print_attempts(attempts: Sequence[Attempt]) -> None:
    """Print the table, with `-` for unknown values."""
    table = build_table(attempts)
    for column, pattern in _FORMATS.items():
        table[column] = [pattern.format(value) if pd.notna(value) else "" for value in table[column]]
    print_table(COLUMNS, table.replace("", "-").to_numpy())


def plot_attempts(attempts: Sequence[Attempt], path: Path) -> int:
    """Plot public scores against OOF and dev distances to a PNG.

    Returns the number of attempts plotted; no file is written if it is 0.
    """
    table = build_table(attempts)
    table["public"] = _to_floats(table["public"])
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


def _format_status(attempt: Attempt) -> str:
    status = attempt.status.lower() or attempt.state
    if attempt.reason and (attempt.state != "submitted" or status == "error"):
        status += f": {attempt.reason}"
    return status


def _to_floats(values: Sequence[object] | pd.Series) -> pd.Series:
    """Convert distances or scores to floats, with NaN for unknown ones. Kaggle gives scores as text, possibly empty."""
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(float)
