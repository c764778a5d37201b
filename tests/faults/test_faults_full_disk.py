"""Full disks: one line that names what was written, nothing half-written, and the same command succeeds later.

The disk is a small one in memory (tmpfs) where this user may mount one, else a limit on the size of files.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults.fork_server import ForkServer, Invocation, Result
from faults.stage import TRAIN
from tiny_competition import tiny_competition

from folds.store.run_folder import SPLITS


@dataclass(frozen=True)
class Case:
    """A command that writes to `disk`, which has `room` bytes left; else its files may have `largest` bytes."""

    module: str
    arguments: tuple[str, ...]
    room: int
    largest: int


RUN = ("--data", "data", *TRAIN, "--fold", "0", "--resume")
CASES = {
    "demo": Case("folds.demo", ("--out", "disk/demo", "--speakers", "4", "--utterances", "1"), 64_000, 5_000),
    "packing": Case("folds.train", (*RUN, "--runs", "new"), 16_000, 5_000),
    "first files": Case("folds.train", (*RUN, "--runs", "disk/begun"), 0, 500),
    "checkpoint": Case("folds.train", (*RUN, "--runs", "disk/begun"), 48_000, 20_000),
    "predictions": Case("folds.train", (*RUN, "--runs", "disk/trained"), 40_000, 10_000),
    "blend": Case("ensemble.blend", ("--data", "data", "--method", "best", "--out", "disk/s.csv"), 0, 400),
    "report": Case("ensemble.report", ("--data", "data", "--hardest", "1", "--out", "disk/report.html"), 0, 400),
}


class Disk:
    """The folder `path`, which is a disk of its own if that is possible."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounted = self._mount()

    def _mount(self) -> bool:
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self.path)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False

    def leave(self, room: int) -> None:
        """Fill the disk so that `room` bytes are free."""
        with contextlib.suppress(OSError), open(self.path / "filler", "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        size = (self.path / "filler").stat().st_size
        with open(self.path / "filler", "rb+") as file:
            file.truncate(max(0, size - room))

    def end(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as started:
        yield started


@pytest.fixture(scope="module")
def stage(server, tmp_path_factory) -> Path:
    """A competition and a store with both fold models."""
    folder = tmp_path_factory.mktemp("stage")
    tiny_competition(folder / "data", speakers=4, each=3, others=3)
    arguments = ["--data", "data", *TRAIN, "--fold", "all"]
    result = server.run(Invocation("folds.train", arguments, folder, {"HW3P2_CACHE": str(folder / "cache")}))
    assert result.status == 0, result.err
    return folder


@pytest.fixture
def disk(stage) -> Iterator[Disk]:
    made = Disk(stage / "disk")
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(stage / "disk")
        shutil.rmtree(stage / "new", ignore_errors=True)


def limit_files(server: ForkServer, size: int) -> None:
    """Let files of the commands from now on have at most `size` bytes."""
    hard = resource.prlimit(server._process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server._process.pid, resource.RLIMIT_FSIZE, (size, hard))


def run_with(server: ForkServer, stage: Path, name: str) -> Result:
    cache = stage / ("disk" if name == "packing" else "cache")
    environment = {"HW3P2_CACHE": str(cache), "MPLCONFIGDIR": str(stage)}
    return server.run(Invocation(CASES[name].module, list(CASES[name].arguments), stage, environment))


@pytest.mark.parametrize("limited", [False, True], ids=["disk", "limit"])
@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_is_one_line_and_the_command_succeeds_later(server, stage, disk, name, limited):
    case = CASES[name]
    if not (limited or disk.mounted):
        pytest.skip("this user may not mount a file system")
    if name == "predictions":
        shutil.copytree(stage / "runs", stage / "disk" / "trained")
        for split in SPLITS:
            (stage / "disk" / "trained" / "lstm_small" / "fold0" / f"{split}.safetensors").unlink()
    before = {path for path in (stage / "disk").rglob("*") if path.is_file()}
    if limited:
        limit_files(server, case.largest)
    else:
        disk.leave(case.room)
    full = run_with(server, stage, name)
    limit_files(server, resource.RLIM_INFINITY)
    assert full.status == 2 and full.err.startswith("error: the disk or a quota is full"), full
    assert full.err.count("\n") == 1 and "internal" not in full.err
    left = {path for path in (stage / "disk").rglob("*") if path.is_file()} - before
    torn = [path for path in left if path.suffix == ".tmp" or path.name.startswith("lease-")]
    assert torn == [] and not list((stage / "disk").glob(".*unfinished"))
    (stage / "disk" / "filler").unlink(missing_ok=True)
    later = run_with(server, stage, name)
    assert later.status == 0, later.err


def test_the_number_of_the_error_is_that_of_a_full_disk(tmp_path):
    """What the cases rely on."""
    made = Disk(tmp_path / "disk")
    try:
        if not made.mounted:
            pytest.skip("this user may not mount a file system")
        made.leave(0)
        with pytest.raises(OSError) as error:
            (made.path / "more").write_bytes(b"x" * 5000)
        assert error.value.errno == errno.ENOSPC
    finally:
        made.end()
