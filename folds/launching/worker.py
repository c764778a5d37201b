"""`python -m folds.launching.worker SECONDS ARGUMENTS…`: the process that trains one run for `folds.launch`.

It is `folds.train --resume` that ends with the process that started it, and waits for at most so many seconds for
another process that works on the same run: after the death of a machine its lease lasts for some minutes.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import time

# First, because it sets how OpenMP's threads wait, before PyTorch is imported.
from folds import train
from folds.store.lease import Held
from registry import command

BUSY = 75
"""Exit status if another process works on the run: EX_TEMPFAIL of sysexits.h."""
RETRY_S = 15.0
_PR_SET_PDEATHSIG = 1


def stop_with_parent() -> None:
    """Have the kernel send SIGTERM, which saves the state, when the starting process dies. Only Linux can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    """Train; the exit status."""
    stop_with_parent()
    seconds, *arguments = sys.argv[1:]
    deadline = time.monotonic() + float(seconds)
    while True:
        try:
            return train.main([*arguments, "--resume"])
        except Held as held:
            if time.monotonic() + RETRY_S > deadline:
                print(held, file=sys.stderr)
                return BUSY
        time.sleep(RETRY_S)


if __name__ == "__main__":
    command(main)
