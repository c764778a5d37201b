"""Process identities that outlive the process: who wrote a file, and whether that process is known to be dead."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import socket
from pathlib import Path

_ENDED = ("Z", "X")
"""States in /proc of a process that has ended and only waits for its parent to reap it."""


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """Identifies a process uniquely across machines and time: a pid alone is reused, here and on other machines."""

    machine: str
    """12 hexadecimal digits that identify the host name, its boot and the container's PID namespace."""
    pid: int
    started: int
    """Clock ticks from boot to the start of the process; 0 if the system does not tell."""

    @property
    def known_dead(self) -> bool:
        """Whether it ran here and has ended. False for other machines, whose processes cannot be checked."""
        return self.machine == _machine() and not self._runs_here()

    @property
    def known_alive(self) -> bool:
        """Whether it runs here and is certainly the same process, not a later one with the same pid."""
        return self.machine == _machine() and self.started > 0 and self._runs_here()

    def _runs_here(self) -> bool:
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass  # another user's process
        state, started = _status(self.pid)
        return state not in _ENDED and (started == self.started or not (started and self.started))


def this_process() -> ProcessId:
    """The identity of the calling process."""
    return ProcessId(_machine(), os.getpid(), _status(os.getpid())[1])


@functools.cache
def _machine() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def _status(pid: int) -> tuple[str, int]:
    """The state of a process (a letter) and its start time; "" and 0 if /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", 0
    # The second field is the program's name in brackets, which may hold spaces and brackets; see proc(5).
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
