"""Progress bars and tables for people, by `rich`: bars on stderr and only where that is a terminal, tables on stdout.

A log file gets the lines that commands print, never a bar. Lines printed while a bar is shown appear above it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich import progress
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

# Wide enough that a table written to a file is never wrapped.
_FILE_WIDTH = 1000


class ProgressBar:
    """A bar for the time of its `with` block.

    >>> with ProgressBar("decoding", total=3) as bar:
    ...     bar.advance(2, status="distance 9.8")
    """

    def __init__(self, description: str, total: float | None, completed: float = 0.0) -> None:
        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[status]}"),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(description, total=total, completed=completed, status="")  # type: ignore[arg-type]

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, amount: float = 1.0, status: str | None = None) -> None:
        """Move on by `amount`; `status` is shown behind the bar."""
        self._progress.advance(self._task, amount)
        if status is not None:
            self._progress.update(self._task, status=status)

    def move_to(self, completed: float, status: str | None = None) -> None:
        """Move to `completed` of the total."""
        self._progress.update(self._task, completed=completed)
        if status is not None:
            self._progress.update(self._task, status=status)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a bar; `total` is needed where they have no length.

    >>> [number for number in track([1, 2], "counting")]
    [1, 2]
    """
    if total is None:
        total = len(items) if isinstance(items, Sequence) else None
    with ProgressBar(description, total) as bar:
        for item in items:
            yield item
            bar.advance()


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout: floats with three digits, numbers to the right; a first column of names to the left."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _FILE_WIDTH, markup=False, highlight=False)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in enumerate(header):
        numeric = bool(rows) and all(_is_number(row[column]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).lstrip("+-").isdigit()
