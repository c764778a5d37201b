"""Progress bars and tables, drawn by `rich`: bars on stderr, if it is a terminal, and tables on stdout.

In a log file, a line per minute takes the place of a progress bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich import progress
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

LOG_EVERY_S = 60.0
"""Seconds between the lines about progress in a log file; stages that take less have none."""

# Wide enough that a table written to a file is never wrapped.
_FILE_WIDTH = 1000


class ProgressBar:
    """A progress bar, shown while its `with` block runs. A total of None is shown as unknown.

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
            # Lines printed to a file must not be redirected to the terminal that shows the bar.
            redirect_stdout=sys.stdout.isatty(),
        )
        # rich annotates `completed` as int, but any number works.
        self._task = self._progress.add_task(description, total=total, completed=completed, status="")  # type: ignore[arg-type]

    def __enter__(self) -> ProgressBar:
        if not self._progress.disable:
            self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._progress.disable:  # before version 15, rich prints an empty line all the same
            self._progress.stop()

    def advance(self, amount: float = 1.0, status: str | None = None) -> None:
        """Advance by `amount`; `status` is the text after the bar."""
        self._progress.advance(self._task, amount)
        if status is not None:
            self._progress.update(self._task, status=status)

    def move_to(self, completed: float, status: str | None = None) -> None:
        """Move to `completed` of the total; `status` is the text after the bar."""
        self._progress.update(self._task, completed=completed)
        if status is not None:
            self._progress.update(self._task, status=status)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress bar; pass `total`, their number, if they have no length.

    Unless stderr is a terminal, it gets a line every `LOG_EVERY_S` seconds instead.

    >>> [number for number in track([1, 2], "counting")]
    [1, 2]
    """
    if total is None:
        total = len(items) if isinstance(items, Sequence) else None
    started = logged = time.monotonic()
    with ProgressBar(description, total) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.advance()
            if not sys.stderr.isatty() and time.monotonic() - logged >= LOG_EVERY_S and done != total:
                logged = time.monotonic()
                print(_progress_line(description, done, total, logged - started), file=sys.stderr, flush=True)


def _progress_line(description: str, done: int, total: int | None, seconds: float) -> str:
    """One line for a log file, for example `scoring, dev: 120 of 483 in 2:10, about 6:33 left`."""
    if total is None:
        return f"{description}: {done} in {_minutes(seconds)}"
    left = seconds / done * (total - done)
    return f"{description}: {done} of {total} in {_minutes(seconds)}, about {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout: floats with three digits, columns of numbers right-aligned, others left-aligned."""
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in enumerate(header):
        numeric = bool(cells) and all(_is_number(row[column]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else _FILE_WIDTH, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    print("\n".join(lines if terminal else [line.rstrip() for line in lines]))


def counted(number: int, noun: str) -> str:
    """A number with its noun, for example `1 member` and `2 members`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    """Whether a cell belongs in a column of numbers; "-" and "" are missing numbers."""
    return text in ("", "-") or text.replace(",", "").replace(".", "", 1).lstrip("+-").isdigit()
