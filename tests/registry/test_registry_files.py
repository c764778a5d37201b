"""Files appear whole or not at all, and a path that cannot be written is one line."""

from __future__ import annotations

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
