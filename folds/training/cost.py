"""The cost of training a run: its record in summary.json, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

from folds.store.run_folder import RunFolder
from folds.store.schemas import EpochTiming, SummaryFile
from registry.files import exists
from registry.json_files import read_json_lines


@dataclass(frozen=True)
class Cost:
    """The cost of training a run, as recorded in summary.json."""

    cpu_minutes: float
    wall_minutes: float | None = None
    """None for runs from before this was recorded."""
    frames_per_s: float | None = None

    @staticmethod
    def of_run(folder: RunFolder) -> Cost:
        """Sums over the run's epochs. The work of a killed process after its last checkpoint is not counted."""
        # This is only information: lost lines must not keep a trained run from finishing.
        rows = read_json_lines(folder.timing, EpochTiming, any_torn=True) if exists(folder.timing) else []
        wall = sum(row.wall_s for row in rows)
        frames = sum(row.wall_s * row.frames_per_s for row in rows)
        return Cost(sum(row.cpu_s for row in rows) / 60, wall / 60, frames / wall if wall else 0.0)

    @staticmethod
    def from_summary(summary: SummaryFile) -> Cost:
        """The cost recorded in a summary.json."""
        return Cost(summary.cpu_minutes, summary.wall_minutes, summary.frames_per_s)

    def as_json(self) -> dict[str, float]:
        """The entries of summary.json."""
        rounded = {"cpu_minutes": round(self.cpu_minutes, 2)}
        if self.wall_minutes is not None:
            rounded["wall_minutes"] = round(self.wall_minutes, 2)
        if self.frames_per_s is not None:
            rounded["frames_per_s"] = round(self.frames_per_s)
        return rounded


def cpu_time(seconds: float) -> str:
    """CPU time in a unit in which it does not round to zero.

    >>> cpu_time(2.34), cpu_time(90)
    ('2.3 CPU-seconds', '1.5 CPU-minutes')
    """
    return f"{seconds:.2g} CPU-seconds" if seconds < 59.5 else f"{seconds / 60:.1f} CPU-minutes"
