"""`python -m folds.launching.worker SECONDS URL ARGUMENTS…`: the process that trains one run for `folds.launch`.

It is `folds.train --resume`, but ends with the process that started it, and waits at most SECONDS for another process
that works on the same run: after a machine dies, its lease lasts for some minutes. Unless the URL is empty, it uploads
the finished run there.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import Callable

# First, because it sets how OpenMP's threads wait, before PyTorch is imported.
from folds import train
from folds.store.lease import Held
from folds.store.remote import RemoteStore
from folds.training.command_line import parse
from registry import InputError, command
from registry.errors import describe_machine_fault
from registry.redaction import redact

BUSY = 75
"""Exit status if another process is working on the run: EX_TEMPFAIL of sysexits.h."""
RETRY_S = 15.0
_PR_SET_PDEATHSIG = 1


def prepare_signals() -> None:
    """Have the kernel send SIGTERM, which saves the state, when the parent process dies; only Linux can do this.

    Slurm's warning before the time limit goes to all processes of a job. It is ignored here: the parent process
    responds to it by sending SIGTERM.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> int:
    """Train; returns the exit status."""
    prepare_signals()
    seconds, url, *arguments = sys.argv[1:]

    def work() -> int:
        status = train.main([*arguments, "--resume"])
        return status or (upload(url, arguments) if url else 0)

    return when_free(work, float(seconds))


def when_free(work: Callable[[], int], seconds: float) -> int:
    """Do work once no other process is doing it; returns the exit status, BUSY after waiting `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except Held as held:
            if time.monotonic() + RETRY_S > deadline:
                print(held, file=sys.stderr)
                return BUSY
        except Exception as error:  # exit status 2 would mean that another attempt ends in the same way
            fault = describe_machine_fault(error)
            if fault is None:
                raise
            print(f"error: {redact(' '.join(fault.splitlines()))}", file=sys.stderr)
            return 1
        time.sleep(RETRY_S)


def upload(url: str, arguments: list[str]) -> int:
    """Upload the run that was trained with these arguments; returns 1 after an error, which may be temporary."""
    (model,) = parse(arguments)
    (fold,) = model.options.fold_list()
    try:
        RemoteStore(url).upload(model.options.run_folder(model.name, fold))
    except InputError as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command(main)
