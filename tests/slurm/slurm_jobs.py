"""The jobs of runs, and waiting for what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from folds.store.attempts import read_attempts
from folds.store.run_folder import RunFolder


def wait_for(what: str, condition: Callable[[], object], seconds: float = 900) -> None:
    """Wait until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds:g} s: {what}"
        time.sleep(0.1)


def job_of(folder: RunFolder) -> str:
    """The Slurm job of a run's last attempt."""
    return read_attempts(folder.attempts)[-1].job
