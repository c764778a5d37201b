"""Leases: only one process at a time works in a folder, among all processes on all machines that see it.

A process that wants a folder writes its own file into it, `lease-<random>.json`, and then looks for those of other
processes. If there are none, it owns the folder until it deletes its file; otherwise it deletes its file and gives up.
If two start at once, at least the later one sees the other's file. No process renames or replaces the file of another,
and only abandoned files are deleted, so every order of events is safe, and a process that is killed leaves nothing but
its own file. This needs no locks, which network file systems often lack: only that a created file is listed from then
on.

The holder keeps refreshing the modification time of its file. A lease is abandoned if its process is known to be dead,
which only its own machine can know, or if its file has not been refreshed for `EXPIRY_S`. Times are compared with that
of the file just written, both by the file server's clock. The holder calls `Lease.check` before it writes: if it was
suspended for so long that another process took over the folder, it must stop.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from folds.store.schemas import Count
from registry import InputError
from registry.errors import describe_os_error
from registry.files import exists, listed, remove_leftovers
from registry.json_files import read_json, write_json
from registry.processes import ProcessId, this_process

HEARTBEAT_S = 30.0
EXPIRY_S = 300.0
"""A process on another machine counts as dead after this many seconds without a heartbeat."""
_ATTEMPTS = 5


class Held(InputError):
    """Another process is working in the folder."""


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lease, as recorded in its file."""

    host: str
    pid: Count
    machine: str
    started: Count
    since: str
    """When it took the lease, by its own clock."""

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.machine, self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to write into `folder`, while `path` exists."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self.path = path
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._refresh, name="lease", daemon=True)
        self._heartbeat.start()

    def check(self) -> None:
        """Raise InputError if the lease was lost: taken over while this process was suspended, or deleted."""
        if exists(self.path):
            return
        others = [lease.holder for lease in _leases(self.folder)]
        by = f"was taken over by {others[0]}" if others else f"was deleted ({self.path.name} is gone)"
        raise InputError(f"{self.folder}: this process's lease {by}: stopped, and nothing more is written")

    def release(self) -> None:
        """Release the folder. The lease may be gone already."""
        self._ended.set()
        self._heartbeat.join()
        _delete(self.path)

    def _refresh(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # A file that is gone stays gone, and `check` notices; a network drive may be back at the next heartbeat.
            with contextlib.suppress(OSError):
                os.utime(self.path)


@contextlib.contextmanager
def hold(folder: Path, subject: str) -> Iterator[Lease]:
    """Create `folder` and hold its lease during the `with` block; delete what killed processes left there.

    `subject` is the name of the work in messages, such as "gru fold 0". If the block leaves the folder empty, it is
    deleted, with the parent folders that were created for it. Raises Held if another process has the lease, and
    InputError or OSError if none can be written.
    """
    created = [folder, *itertools.takewhile(lambda path: not path.exists(), folder.parents)]
    try:
        lease = _claim(folder, subject)
        try:
            for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
                remove_leftovers(place)
            yield lease
        finally:
            lease.release()
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # not empty, or used by another process
                path.rmdir()


def holder_of(folder: Path) -> Holder | None:
    """The process that works in a folder, or None. Only `hold` is certain: another process may come first."""
    leases = _leases(folder)
    # This machine's clock may be minutes ahead of the file server's, which dates the leases.
    now = _server_time(folder) if any(lease.depends_on_time for lease in leases) else time.time()
    return next((lease.holder for lease in leases if not lease.abandoned(now)), None)


def _server_time(folder: Path) -> float:
    """The time by the file server's clock, or by this machine's if no file can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            return os.stat(file.name).st_mtime
    except OSError:
        return time.time()


def delete_dead(folder: Path) -> None:
    """Delete the leases of this machine's dead processes in a folder where no work is left."""
    for lease in _leases(folder):
        if lease.holder.process.known_dead:
            _delete(lease.path)


class _LeaseFile:
    """A lease of any process, as it was when it was read."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError if the file is gone."""
        self.path = path
        self.refreshed = path.stat().st_mtime
        try:
            self.holder = read_json(path, Holder)
        except InputError:
            if not exists(path):
                raise FileNotFoundError(path) from None
            # Damaged: only its age is known.
            self.holder = Holder(f"an unknown host ({path.name})", 0, "", 0, "an unknown time")

    @property
    def depends_on_time(self) -> bool:
        """Whether its process is on another machine, so that it can be judged only by its age."""
        process = self.holder.process
        return not process.known_dead and not process.known_alive

    def abandoned(self, now: float) -> bool:
        """Whether its process is dead, or must be assumed dead at `now`, a time by the file server's clock."""
        process = self.holder.process
        return process.known_dead or (not process.known_alive and now - self.refreshed > EXPIRY_S)


def _leases(folder: Path) -> list[_LeaseFile]:
    found = []
    for path in listed(folder, "lease-*.json"):
        with contextlib.suppress(FileNotFoundError):
            found.append(_LeaseFile(path))
    return found


def _claim(folder: Path, subject: str) -> Lease:
    """Take the lease of a folder. Raises Held if another process has it."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            own, now = _write_own(folder)
        except InputError:
            # A process that had nothing to write may have deleted the empty folder after this one created it.
            if folder.is_dir() or attempt == _ATTEMPTS:
                raise
            continue
        others = _others(folder, own, now)
        if not others:
            return Lease(folder, own)
        _delete(own)
        # Another process may have started at the same moment, seen this one's file, and given up too.
        time.sleep(random.uniform(0.1, 0.3) * attempt)
        if others := _others(folder, own, now):
            break
    holder = others[0].holder if others else "other processes, which also wait for it"
    raise Held(
        f"{folder}: {subject} is being worked on by {holder}: wait until that process has ended, or end it "
        f"(after a crash on another machine, the folder is free after {EXPIRY_S / 60:g} minutes)"
    )


def _others(folder: Path, own: Path, now: float) -> list[_LeaseFile]:
    """The leases that other processes hold; abandoned ones are deleted."""
    others = []
    for lease in _leases(folder):
        if lease.path == own:
            continue
        if lease.abandoned(now):
            _delete(lease.path)
        else:
            others.append(lease)
    return others


def _write_own(folder: Path) -> tuple[Path, float]:
    """Write a lease of this process; returns its path, and the time by the file server's clock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(describe_os_error(error, folder)) from None
    process = this_process()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = Holder(socket.gethostname(), process.pid, process.machine, process.started, since)
    path = folder / f"lease-{secrets.token_hex(8)}.json"
    write_json(path, msgspec.to_builtins(holder))
    return path, path.stat().st_mtime


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

