"""Files appear whole or not at all, and a path that cannot be written is one line."""

from __future__ import annotations

import os

import pytest

from registry import InputError, atomic_write, check_writable


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
