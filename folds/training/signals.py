"""SIGTERM and Ctrl-C stop a run after the current step, with a checkpoint: both schedulers and users send them."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """A signal stopped the run, and its state is saved. `status` is the shell's exit status for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class SignalCatcher:
    """Within the `with` block, the first SIGTERM or SIGINT is only recorded in `caught`; a second one acts as usual.

    With `several`, for the processes of torchrun, further ones are ignored: a scheduler sends a signal to all processes
    of a job, and torchrun, which kills them 30 s later anyway, then sends it to its processes again.
    """

    def __init__(self, several: bool = False) -> None:
        self.caught: int | None = None
        self._several = several
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> SignalCatcher:
        # Only the main thread may set handlers; in other threads the calling program handles signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers_before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.caught is None:
            self.caught = number
        if not self._several:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}
