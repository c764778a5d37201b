"""A search (`folds.tune`) on an executor, which starts processes that get their trials from the study's journal."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from folds.competition.detect import data_root
from folds.launching.destination import Destination
from folds.launching.executor import LaunchSettings, create_executor, is_on_this_machine
from folds.launching.executor_task import shared_device
from folds.launching.launcher import Launcher
from folds.launching.status import RunStatus
from folds.launching.status_table import StatusDisplay
from folds.store.run_folder import RunFolder
from folds.training.config_file import arguments_of
from folds.tuning.options import TuneOptions
from folds.tuning.study import FINISHED, StudyPaths
from registry import InputError
from registry.files import exists

ATTEMPTS = 20
"""How often each process of a search may die."""


@dataclasses.dataclass(frozen=True)
class WorkerFolder(RunFolder):
    """tune/<study>/workers/<name>/: the log, the attempts and the lease of one process of a search."""

    @property
    def finished(self) -> bool:
        """Whether the study is finished."""
        return exists(self.path.parents[1] / FINISHED)

    @property
    def title(self) -> str:
        return f"worker {self.path.name}"


@dataclasses.dataclass(frozen=True)
class SearchWorker:
    """One process of a search."""

    folder: WorkerFolder
    device: str
    """The type of device ("cpu" or "cuda") on which it trains."""
    arguments: tuple[str, ...]
    """The arguments of folds.tune."""
    working_folder: str = dataclasses.field(default_factory=os.getcwd, compare=False)

    @property
    def title(self) -> str:
        return self.folder.title

    @property
    def fingerprint(self) -> str:
        """Empty: the study itself rejects other settings, and --jobs may change."""
        return ""

    @property
    def needs_no_process(self) -> bool:
        """Whether the others have finished the study."""
        return self.folder.finished

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        """The command line of `folds.launching.search_worker`. Trials keep one CPU thread: CPU time limits them."""
        worker = [sys.executable, "-m", "folds.launching.search_worker"]
        return [*worker, str(wait_s), str(self.folder.path), *self.arguments]


class LogDisplay(StatusDisplay):
    """Prints what processes have added to their logs since the last call, and their changes of state."""

    def __init__(self, folders: Sequence[RunFolder]) -> None:
        super().__init__(live=False)
        self._read = {folder: folder.log.stat().st_size if folder.log.exists() else 0 for folder in folders}

    def show(self, statuses: Sequence[RunStatus]) -> None:
        super().show(statuses)
        for folder, start in self._read.items():
            if not folder.log.exists():
                continue
            with open(folder.log, "rb") as log:
                log.seek(start)
                lines, newline, _ = log.read().rpartition(b"\n")
            if newline:
                print(lines.decode("utf-8", "replace"), flush=True)
                self._read[folder] = start + len(lines) + 1


def search_workers(options: TuneOptions) -> list[SearchWorker]:
    """`--jobs` processes, each with the study's own options."""
    # On clusters, the next launcher takes over the processes of one that has exited. Processes on this machine end with
    # their launcher, and several machines may work on one study.
    name = options.on if not is_on_this_machine(options.on) else f"{socket.gethostname()}-{os.getpid()}"
    paths = StudyPaths(Path(os.path.abspath(options.journal)))
    own = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    own |= {"data": os.path.realpath(data_root(options.data)), "study": paths.journal}
    del own["on"]
    arguments = tuple(arguments_of({key: value for key, value in own.items() if value not in (None, ())}))
    folders = [WorkerFolder(paths.folder / "workers" / f"{name}-{index}") for index in range(options.jobs)]
    return [SearchWorker(folder, shared_device(options.device), arguments) for folder in folders]


def run_search(options: TuneOptions, executor_options: Any) -> None:
    """Have an executor's processes work on the study until it is finished.

    Raises Interrupted after Ctrl-C or SIGTERM, and InputError if the processes fail for good, or cannot be started.
    """
    workers = search_workers(options)
    study = workers[0].folder.path.parents[1]
    settings = LaunchSettings(study, options.jobs, ATTEMPTS, len(workers))
    executor = create_executor(options.on, settings, executor_options)
    display = LogDisplay([worker.folder for worker in workers])
    failures = Launcher(executor, ATTEMPTS, Destination(study), display).run(workers)
    if not exists(study / FINISHED):
        worker, outcome = next(iter(failures.items()))
        raise InputError(f"{outcome.reason} ({worker.title}; log: {worker.folder.log})")
