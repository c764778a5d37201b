"""The number of threads for decoding and blending: one setting for all of them.

Compiled functions release the GIL, so ordinary Python threads run them in parallel. Numba's own threads are not used:
starting them, or merely querying their number, sets the number of OpenMP threads of the whole process, which PyTorch
uses too. A blend with an attention decoder took 31 minutes with twice as many threads as free cores, and 21 seconds
without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

from registry.console import track
from registry.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

# A thread takes several parts of a range one after the other, so that no thread is left with the longest utterances.
_PARTS_PER_THREAD = 16

_threads: int | None = None


def worker_threads() -> int:
    """The number of threads: that of `set_worker_threads`, else NUMBA_NUM_THREADS, else the CPUs of this process."""
    return _threads or numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set when numba is imported


def set_worker_threads(count: int | None) -> None:
    """Use `count` threads from now on; None restores the default. Raises InputError for a count below 1."""
    global _threads
    if count is not None and count < 1:
        raise InputError(f"threads: {count}; expected 1 or more")
    _threads = count


def map_threads(function: Callable[[T], R], items: Sequence[T], threads: int | None = None) -> Iterator[R]:
    """Results of `function` in the order of `items`, computed by `threads` threads, by default `worker_threads()`.

    >>> list(map_threads(abs, [-1, 2]))
    [1, 2]
    """
    count = min(len(items), threads or worker_threads())
    if count <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        yield from pool.map(function, items)


def for_ranges(function: Callable[[int, int], object], count: int, description: str = "") -> None:
    """Call `function(first, last)` for ranges that partition `range(count)`, several in parallel.

    With a description, a progress bar is shown.
    """
    parts = min(count, _PARTS_PER_THREAD * worker_threads())
    edges = [count * part // parts for part in range(parts + 1)] if parts else []
    done = map_threads(lambda part: function(edges[part], edges[part + 1]), range(parts))
    for _ in track(done, description, parts) if description else done:
        pass
