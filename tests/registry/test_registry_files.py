"""Files appear whole or not at all, and a path that cannot be written is one line."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from pathlib import Path

import pytest

from registry import InputError, atomic_write, check_writable
from registry.files import listed
from registry.processes import ProcessId, this_process


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("torn")
        raise RuntimeError
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_a_file_has_the_permissions_of_any_other(tmp_path):
    """Not those of temporary files, which nobody else may read."""
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file"):
            pass
    finally:
        assert os.umask(before) == 0o027
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_an_error_of_writing_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="No space") as raised, atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="Input/output") as raised, atomic_write(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "other")
    assert raised.value.filename == "other"


def test_paths_that_match_are_listed_in_order(tmp_path, monkeypatch):
    (tmp_path / "c.txt").touch()
    assert listed(tmp_path / "missing", "*") == listed(tmp_path / "c.txt", "*") == []
    monkeypatch.setattr(Path, "iterdir", lambda folder: (folder / name for name in ("b.json", "a.json", "c.txt")))
    assert listed(tmp_path, "*.json") == [tmp_path / "a.json", tmp_path / "b.json"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_a_process_is_known_by_more_than_its_number():
    me = this_process()
    assert me.known_alive and not me.known_dead
    later = dataclasses.replace(me, started=me.started - 1)  # whose number this process has now
    assert later.known_dead and not later.known_alive
    for unsure in (dataclasses.replace(me, started=0), dataclasses.replace(me, machine="0" * 12)):
        assert not unsure.known_dead and not unsure.known_alive
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ended = ProcessId(me.machine, child.pid, 0)
    assert ended.known_dead  # although its number is still taken
    child.wait()
    assert ended.known_dead and not dataclasses.replace(ended, machine="0" * 12).known_dead


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "below", "File exists|Not a directory")):
        with pytest.raises(InputError, match=f"cannot be written \\(({reason})\\): choose another path"):
            check_writable(path)
        with pytest.raises(InputError, match="cannot be written"), atomic_write(path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"


def test_a_special_file_is_not_replaced(tmp_path):
    """Here a named pipe; a device node, which only root can make, is the same to the check."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="pipe: not a regular file, and is not replaced"):
        check_writable(pipe)
    with pytest.raises(InputError, match="not a regular file"), atomic_write(pipe):
        pass
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can make a device node")
def test_a_device_is_not_replaced(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        pytest.skip("no device nodes in this file system")
    with pytest.raises(InputError, match="not a regular file"), atomic_write(device):
        pass
    assert device.is_char_device()


def test_an_interrupted_replacement_keeps_the_complete_file(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    path = tmp_path / "submission.csv"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", refuse)
    message = "submission.csv: cannot be replaced"
    with pytest.raises(InputError, match=message) as caught, atomic_write(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old" and temporary.read_text() == "new" and str(temporary) in str(caught.value)


def test_names_too_long_and_links_in_a_loop_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    for path in (tmp_path / ("x" * 300), tmp_path / "loop", tmp_path / "loop" / "x", tmp_path / "dangling" / "x"):
        with pytest.raises(InputError, match=r"cannot be written \(.*\): choose another path"):
            check_writable(path)
        with pytest.raises(InputError, match="cannot be written"), atomic_write(path):
            pass
    assert {path.name for path in tmp_path.iterdir()} <= {"loop", "dangling", "missing"}


def test_links_are_followed(tmp_path):
    """A submission may be a link into a mounted drive; what it points to is replaced, whether or not it exists yet."""
    (tmp_path / "old").write_text("old")
    for name in ("old", "drive/new"):
        link = tmp_path / "link"
        link.symlink_to(name)
        with atomic_write(link) as temporary:
            temporary.write_text("new")
        assert link.is_symlink() and (tmp_path / name).read_text() == "new"
        link.unlink()
    assert [path.name for path in (tmp_path / "drive").iterdir()] == ["new"]


def test_a_name_of_full_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with atomic_write(tmp_path / os.fsdecode(b"not-utf-8-\xff")) as temporary:
        temporary.write_text("whole")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc")
def test_proc_takes_no_files():
    with pytest.raises(InputError, match="cannot be written"), atomic_write("/proc/hw3p2/file"):
        pass
