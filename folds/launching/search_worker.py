"""`python -m folds.launching.search_worker SECONDS FOLDER ARGUMENTS…`: a process of `folds.tune` on an executor.

It works on the study's trials until all are finished, and ends with the process that started it. It holds the lease of
FOLDER, for which it waits at most SECONDS.
"""

from __future__ import annotations

import sys
from pathlib import Path

# First, because it sets how OpenMP's threads wait, before PyTorch is imported.
from folds.launching import worker
from folds.launching.search import WorkerFolder
from folds.store.lease import hold
from folds.training.signals import Stopped
from folds.tuning.options import TuneOptions
from folds.tuning.study import check_optuna
from folds.tuning.work import make_tuning, work_on
from registry import command
from registry.command_line import parse_options


def main() -> int:
    """Work on the study; returns the exit status."""
    worker.prepare_signals()
    seconds, path, *arguments = sys.argv[1:]
    options = parse_options(TuneOptions, "python -m folds.tune", arguments)
    check_optuna()
    folder = WorkerFolder(Path(path))

    def work() -> int:
        with hold(folder.path, folder.title):
            try:
                work_on(make_tuning(options))
            except Stopped as stopped:
                return stopped.status
        return 0

    return worker.when_free(work, float(seconds))


if __name__ == "__main__":
    command(main)
