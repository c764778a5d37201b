"""The ledger for the eye: a table of attempts with cross-validation against leaderboard, and the same as a picture.

Reads events only through `submit.ledger`; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from registry.errors import atomic_write
from submit.advice import shorten
from submit.check import method_of
from submit.ledger import Attempt

_COLUMNS = ("date", "competition", "file", "recipe", "OOF", "dev", "public", "private", "public-OOF", "ref", "status")


def table(attempts: Sequence[Attempt]) -> str:
    """One line an attempt, oldest first. Distances and scores are mean edit distances: lower is better."""
    cells = [_COLUMNS, *map(_row, attempts)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _row(attempt: Attempt) -> tuple[str, ...]:
    oof, public = _number(attempt.blend.get("oof")), _number(attempt.public_score)
    gap = f"{public - oof:+.3f}" if oof is not None and public is not None else "-"
    status = attempt.status.lower() or attempt.state
    if attempt.reason and (attempt.state != "submitted" or status == "error"):
        status += f": {attempt.reason}"
    return (
        attempt.date,
        attempt.competition,
        Path(attempt.file).name,
        shorten(method_of(attempt.blend) or attempt.message or "-", 40),
        _shown(oof),
        _shown(_number(attempt.blend.get("dev"))),
        attempt.public_score or "-",
        attempt.private_score or "-",
        gap,
        str(attempt.ref or "-"),
        status,
    )


def plot(attempts: Sequence[Attempt], path: Path) -> int:
    """Draw OOF and dev distance against public score into a PNG; answer how many attempts have both and are in it."""
    scored = [each for each in attempts if _number(each.public_score) is not None]
    points = [(name, each) for name in ("oof", "dev") for each in scored if _number(each.blend.get(name)) is not None]
    if not points:
        return 0
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6), layout="constrained")
    for name, marker in (("oof", "o"), ("dev", "s")):
        chosen = [each for which, each in points if which == name]
        x, y = [_number(each.blend[name]) for each in chosen], [_number(each.public_score) for each in chosen]
        if chosen:
            axes.scatter(x, y, marker=marker, label={"oof": "OOF", "dev": "dev"}[name])
        for left, up, each in zip(x, y, chosen, strict=True):
            axes.annotate(str(each.ref), (left, up), textcoords="offset points", xytext=(5, 5), fontsize=8)
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot((low, high), (low, high), linestyle=":", color="grey", label="equal")
    axes.set(xlabel="our mean edit distance", ylabel="public score", title="cross-validation against leaderboard")
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
    return len({each.id for _, each in points})


def _number(value: object) -> float | None:
    """A distance as a number; Kaggle gives scores as strings, empty where there is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
