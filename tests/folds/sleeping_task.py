"""A task that needs no training: a process that sleeps. Executors on clusters import this module."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from folds.store.run_folder import RunFolder

SLEEP = """
import os, pathlib, sys, time
folder, seconds, status = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
(folder / "pid").write_text(str(os.getpid()))
time.sleep(seconds)
if status == 0:
    (folder / "done").touch()
sys.exit(status)
"""


class SleepFolder(RunFolder):
    """The folder of a `SleepingTask`."""

    @property
    def finished(self) -> bool:
        return (self.path / "done").exists()

    @property
    def pid(self) -> int | None:
        """The process of the last attempt; None before it has started."""
        text = (self.path / "pid").read_text() if (self.path / "pid").exists() else ""
        return int(text) if text else None


@dataclass(frozen=True)
class SleepingTask:
    """Sleeps, then ends with this status."""

    folder: SleepFolder
    seconds: float
    status: int = 0
    device: str = "cpu"
    fingerprint: str = ""
    working_folder: str = ""

    @staticmethod
    def create(path: Path, seconds: float, status: int = 0) -> SleepingTask:
        path.mkdir(parents=True)
        return SleepingTask(SleepFolder(path), seconds, status)

    @property
    def title(self) -> str:
        return self.folder.path.name

    @property
    def needs_no_process(self) -> bool:
        return self.folder.finished

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        return [sys.executable, "-c", SLEEP, str(self.folder.path), str(self.seconds), str(self.status)]
