"""Runs commands in forked children of a process that has imported them: a case takes tenths of a second, not three.

    with ForkServer() as server:
        result = server.run(Invocation("folds.demo", ["--speakers", "-1"], cwd))

A child is a process with a folder, an environment and a time limit of its own: a crash or a hang ends nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.surroundings import SURROUNDINGS

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "folds", "ensemble", "submit")
CPU_SECONDS, WALL_SECONDS = 60, 600
"""Limits of one case. What is refused takes a second of CPU time, and a tiny training takes ten."""
IDLE_SECONDS = 40
"""A command that has used no CPU time for so long waits for something that never comes, such as a pipe's other end."""
IMPORTED_LATER = ("torch._dynamo",)
"""What commands import when they need it, and what takes longer than a case: PyTorch's optimizers need this one."""
MEMORY = 8 << 30
"""Bytes of address space beyond what the imports take."""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """One call of a command: its module, arguments, working folder, and variables beside the server's own."""

    module: str
    arguments: list[str]
    cwd: Path
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    wall_seconds: float = WALL_SECONDS
    surroundings: str = ""
    """A name in `SURROUNDINGS`."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended: its exit status, negative for a signal; `hung` if it was ended by a limit."""

    status: int
    hung: bool
    out: str
    err: str
    seconds: float


def command_modules() -> list[str]:
    """The modules that are commands: those that end in `command(main)`."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).glob("*.py"))]
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in paths
        if path.read_text(encoding="utf-8").rstrip().endswith("command(main)")
    ]


class ForkServer:
    """The process that forks; `run` waits for the result. One instance runs one case at a time."""

    def __enter__(self) -> ForkServer:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        for name in ("HW3P2_DATA", "HW3P2_CACHE"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, invocation: Invocation) -> Result:
        """Run a command to its end, or to its limit of time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = dataclasses.asdict(invocation) | {"cwd": str(invocation.cwd)}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return Result(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Import all commands, then answer requests, one JSON object per line."""
    # Requests and results have descriptors of their own, so that nothing a library prints gets among them.
    requests, results = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    mains = {module: importlib.import_module(module).main for module in command_modules()}
    for module in IMPORTED_LATER:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    for request in requests:
        results.write(json.dumps(_answer(mains, json.loads(request))) + "\n")
        results.flush()


def _answer(mains: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        child = os.fork()
        if child == 0:
            _become(mains, request, out.fileno(), err.fileno())
        status, hung = _wait(child, started + request["wall_seconds"])
        texts = [_contents(file) for file in (out, err)]
    seconds = time.monotonic() - started
    return {"status": status, "hung": hung, "out": texts[0], "err": texts[1], "seconds": seconds}


def _contents(file: io.BufferedRandom) -> str:
    file.seek(0)
    return file.read().decode(errors="backslashreplace")


def _wait(child: int, deadline: float) -> tuple[int, bool]:
    """The child's exit status, and whether it was ended by a limit of CPU or wall time."""
    pause, used, active = 0.002, -1, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # what it started itself
            return code, code == -signal.SIGXCPU
        if time.monotonic() - active > IDLE_SECONDS / 4 and (now := _ticks(child)) != used:
            used, active = now, time.monotonic()
        if time.monotonic() > min(deadline, active + IDLE_SECONDS):
            os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it may not have its group yet
                os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), True
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _ticks(group: int) -> int:
    """CPU time of all processes of a group, in ticks. Format of the files: proc(5)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) if int(fields[2]) == group else 0
    return total


def _become(mains: dict[str, Any], request: dict[str, Any], out: int, err: int) -> None:
    """In the child: run the command as `python -m` does, and leave without the parent's exit handlers."""
    status = 1
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.update(request["environment"])
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # What is cached from the environment when a module is imported.
        import tempfile

        tempfile.tempdir = None
        if request["surroundings"]:
            SURROUNDINGS[request["surroundings"]]()
        sys.argv = [request["module"], *request["arguments"]]
        from registry import command

        command(mains[request["module"]])
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status & 0xFF)


if __name__ == "__main__":
    serve()
