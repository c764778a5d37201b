"""SIGTERM and Ctrl-C end a run after the step in hand, with a checkpoint: what clusters and people send means stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was told to stop; its state is saved. `status` is the shell's exit status for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class SignalCatcher:
    """Within its `with` block the first SIGTERM or SIGINT is only noted in `caught`; a second one acts as usual."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> SignalCatcher:
        # Only the main thread may set handlers; elsewhere the program that runs us decides about signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
