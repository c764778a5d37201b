"""Runs `python -m submit` and its client as forks of one process that has imported both, for a thousand runs.

Started as a script, it reads requests from standard input, one per line, and answers on standard output:

    {"start": [arguments], "variables": {...}, "folder": ..., "output": ..., "clock": seconds}   ->  its process id
    {"wait": process id}                                                                         ->  its exit status

Everything but the start of the interpreter is as in a real run: the run and its client are processes of their own, with
pipes between them, and can be killed. `clock` is by how much the wall clock of the run is wrong.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
import types
from typing import Any

import kaggle
import kagglesdk.competitions.types.competition_api_service  # noqa: F401 - what the client imports when it is called
from kaggle.api.kaggle_api_extended import KaggleApi

import submit.client
import submit.ledger
from registry.errors import command
from submit import worker
from submit.__main__ import main


class ForkedClient:
    """The part of `subprocess.Popen` that `submit.client` uses."""

    def __init__(self, _: list[str], *, env: dict[str, str], **__: Any) -> None:
        requests, answers = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _run_client(requests[0], answers[1], env)
        os.close(requests[0])
        os.close(answers[1])
        self.stdin = os.fdopen(requests[1], "w", encoding="utf-8")
        self.stdout = os.fdopen(answers[0], encoding="utf-8")

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, 9)

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("client", timeout or 0)
            else:
                time.sleep(0.002)
        return self.returncode


def _run_client(requests: int, answers: int, variables: dict[str, str]) -> None:
    try:
        os.setsid()
        os.dup2(requests, 0)
        os.dup2(answers, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(variables)
        # What importing kaggle does.
        kaggle.api = KaggleApi()
        with contextlib.suppress(Exception, SystemExit):
            kaggle.api.authenticate()
        worker.main()
    finally:
        os._exit(1)


def _run_command(request: dict[str, Any]) -> None:
    status: object = 1
    try:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(source, descriptor)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(request["variables"])
        os.chdir(request["folder"])
        _set_clock(request["clock"])
        command(lambda: main(request["start"]))
    except SystemExit as exit:
        status = exit.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _set_clock(seconds: float) -> None:
    true_time = time.time

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(time.time(), tz)

    time.time = lambda: true_time() + seconds  # type: ignore[assignment]
    submit.ledger.datetime = Clock  # type: ignore[assignment,attr-defined]


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    submit.client.subprocess = types.SimpleNamespace(  # type: ignore[attr-defined,assignment]
        Popen=ForkedClient, PIPE=-1, DEVNULL=-3, TimeoutExpired=subprocess.TimeoutExpired
    )
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                _run_command(request)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    serve()
