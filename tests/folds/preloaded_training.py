"""Processes that have imported PyTorch before they begin: each import would take 3 CPU-seconds."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from typing import Any, BinaryIO

from registry import command

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["folds.launching.search_worker", "optuna", "plotly"])


def run_module(module: str, arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """What `python -m MODULE ARGUMENTS` does, with its output appended to a file."""
    os.setpgid(0, 0)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    command(importlib.import_module(module).main)


class PreloadedProcess:
    """Stands in for `subprocess.Popen` of `python -m MODULE …`: a process of its own, forked from one that has only
    imported the packages."""

    def __init__(self, arguments: list[str], *, stdout: BinaryIO, env: dict[str, str], **options: Any) -> None:
        _, _, module, *rest = arguments
        self._process = CONTEXT.Process(target=run_module, args=(module, rest, stdout.name, env))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)
