"""The table of runs: live on a terminal, otherwise a line whenever a run's state changes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.live import Live
from rich.table import Table
from rich.text import Text

from folds.launching.status import STATES, RunStatus
from registry.console import print_table
from registry.files import exists

HEADER = ("run", "state", "epoch", "distance", "frames/s", "left", "where")
REFRESH_S = 2.0
"""Seconds between two readings of the runs."""


def print_status(statuses: Sequence[RunStatus]) -> None:
    """Print the table, the reason and the log of each failure, and the counts."""
    print_table(HEADER, [row(status) for status in _sorted(statuses)])
    print_failures(statuses)
    print(summary(statuses))


def print_failures(statuses: Sequence[RunStatus]) -> None:
    """Print the reason and the log of each failed run; the log may be on the disk of another machine."""
    for status in statuses:
        if status.state == "failed":
            log = f"; log: {status.folder.log}" if exists(status.folder.log) else ""
            print(f"{status.folder.title} failed: {status.reason}{log}")


def summary(statuses: Sequence[RunStatus]) -> str:
    """The number of runs in each state: `3 training, 5 finished`."""
    counts = Counter(status.state for status in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no runs"


def row(status: RunStatus) -> tuple[str, ...]:
    """A row of the table, as text."""
    epochs = f"/{status.epochs}" if status.epochs is not None else ""
    return (
        status.folder.title,
        status.state,
        f"{status.epoch}{epochs}" if status.epoch else "",
        "" if status.distance is None else f"{status.distance:.2f}",
        "" if status.frames_per_s is None else f"{status.frames_per_s:,.0f}",
        duration(status.hours_left) if status.state == "training" else "",
        status.place or status.reason,
    )


def duration(hours: float | None) -> str:
    """Hours and minutes: `1:05 h`, or nothing for None.

    >>> duration(1.085)
    '1:05 h'
    """
    if hours is None:
        return ""
    minutes = round(60 * hours)
    return f"{minutes // 60}:{minutes % 60:02d} h"


class StatusDisplay:
    """Shows the runs while its `with` block runs."""

    def __init__(self, live: bool = True) -> None:
        """Without `live`, print a line per change even on a terminal."""
        self._live = Live(auto_refresh=False, transient=True) if live and sys.stdout.isatty() else None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> StatusDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, statuses: Sequence[RunStatus]) -> None:
        """Show the current states."""
        if self._live is None:
            for status in statuses:
                if self._shown.get(status.folder.title, "waiting") != status.state:
                    print(_line(status), flush=True)
                self._shown[status.folder.title] = status.state
            return
        table = Table(*HEADER, box=None, pad_edge=False, title=summary(statuses), title_justify="left")
        for status in _sorted(statuses):
            table.add_row(*(Text(cell) for cell in row(status)))
        self._live.update(table, refresh=True)


def _line(status: RunStatus) -> str:
    details = [f"distance {status.distance:.2f}"] if status.distance is not None else []
    details += [text for text in (status.place, status.reason) if text]
    return ": ".join([f"{status.folder.title} {status.state}", *([", ".join(details)] if details else [])])


def _sorted(statuses: Sequence[RunStatus]) -> list[RunStatus]:
    return sorted(statuses, key=lambda status: STATES.index(status.state))
