"""The cache: damage is noticed, and processes that pack at once, die or cannot write leave it whole."""

from __future__ import annotations

import errno
import fcntl
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from competition_files import same_data
from hypothesis import given, settings
from hypothesis import strategies as st

from folds.data import cache as cache_module
from folds.data import packed_file as packed
from folds.data.cache import load_dataset
from folds.data.packed_file import PackWriter, open_packed
from registry.errors import InputError
from registry.processes import this_process

ROOT = Path(__file__).parents[2]


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_any_damage_to_a_small_file_is_noticed(data: st.DataObject):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        frames = np.arange(30, dtype="<f4").reshape(10, 3)
        with open(path, "wb") as file:
            writer = PackWriter(file)
            writer.stream(frames[:4])
            writer.stream(frames[4:])
            writer.name("frames", (10, 3))
            writer.finish({"odd": np.arange(3, dtype="<i2"), "offsets": np.array([0, 4, 10], dtype="<i8")})
        tensors = open_packed(path)
        assert sorted(tensors) == ["frames", "odd", "offsets"]
        np.testing.assert_array_equal(tensors["frames"], frames)
        assert tensors["offsets"].tolist() == [0, 4, 10]
        whole = path.read_bytes()
        if data.draw(st.booleans(), label="cut"):
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        else:
            # The spaces that pad the header do not matter; every other byte does.
            at = data.draw(st.one_of(st.integers(0, 300), st.integers(packed._HEADER, len(whole) - 1)))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        assert open_packed(path) is None


def test_chunks_over_the_whole_file_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_CHUNK", 64)
    frames = np.arange(16 * 20 - 5, dtype="<f4")
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        writer = PackWriter(file)
        for part in np.array_split(frames, 7):
            writer.stream(part)
        writer.name("frames", frames.shape)
        writer.finish({})
    np.testing.assert_array_equal(open_packed(path)["frames"], frames)
    whole = path.read_bytes()
    for chunk in range(20):
        at = packed._HEADER + 64 * chunk + 7
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert open_packed(path) is None
    path.write_bytes(whole + b"x")
    assert open_packed(path) is None


@pytest.mark.parametrize("damage", [b"", b"\xff" * 5000, b"{}", "cut", "flip"])
def test_a_damaged_cache_is_made_again(small: Path, tmp_path: Path, damage):
    first = load_dataset(small, tmp_path / "cache")
    whole = first.path.read_bytes()
    if damage == "cut":
        damage = whole[:-3]
    elif damage == "flip":
        damage = whole[:4100] + bytes([whole[4100] ^ 1]) + whole[4101:]
    first.path.unlink()
    first.path.write_bytes(damage)
    second = load_dataset(small, tmp_path / "cache")
    assert same_data(second, load_dataset(small, tmp_path / "other"))
    assert second.path.read_bytes() == whole


_CHILD = """
import sys; from pathlib import Path; from folds.data.cache import load_dataset
dataset = load_dataset(Path(sys.argv[1]), Path(sys.argv[2]))
print(dataset.hash, float(abs(dataset.train.frames.values).sum()))
"""


def test_processes_that_pack_at_once(small: Path, tmp_path: Path):
    command = [sys.executable, "-c", _CHILD, str(small), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {child.communicate(timeout=120)[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(answers) == 1
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert [name.rsplit(".", 1)[1] for name in names] == ["safetensors", "lock"]


def test_what_a_killed_packer_left_is_removed(small: Path, tmp_path: Path):
    """And not what one on another machine, which locks of some file systems do not exclude, is writing."""
    path = load_dataset(small, tmp_path / "cache").path
    path.unlink()
    here = this_process()
    kept = f".{path.name}.{'0' * 12}-{here.pid}-{here.started}.abc123.tmp"
    (path.parent / f".{path.name}.{here.machine}-{2**22 + 1}-1.abc123.tmp").write_bytes(b"torn")
    (path.parent / kept).write_bytes(b"another's")
    load_dataset(small, tmp_path / "cache")
    assert [file.name for file in path.parent.glob(".*")] == [kept]


def test_a_file_system_without_locks_has_no_process_wait(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that stood for the lock would stay behind a process that is killed on another machine."""

    def not_there(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", not_there)
    path = load_dataset(small, tmp_path / "cache").path
    assert path.exists() and not list(path.parent.glob("*.lock"))[1:]
    assert load_dataset(small, tmp_path / "cache", smooth=1.0).path.exists()


def test_the_first_of_two_whole_caches_stays(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another machine may be reading it: a network drive forgets a file that is replaced."""
    path = load_dataset(small, tmp_path / "first").path
    finish = PackWriter.finish

    def after_another(writer: PackWriter, tensors: dict) -> None:
        finish(writer, tensors)
        shutil.copy(path, tmp_path / "cache" / path.name)
        inodes.append((tmp_path / "cache" / path.name).stat().st_ino)

    inodes: list[int] = []
    monkeypatch.setattr(PackWriter, "finish", after_another)
    again = load_dataset(small, tmp_path / "cache")
    assert [again.path.stat().st_ino] == inodes
    assert sorted(file.name for file in again.path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def test_a_process_that_waits_says_so(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    path = load_dataset(small, tmp_path / "cache").path
    path.unlink()
    monkeypatch.setattr(cache_module, "_PATIENCE_S", 0.05)
    other = open(f"{path}.lock", "w")  # noqa: SIM115 - closed by the timer
    fcntl.flock(other, fcntl.LOCK_EX)
    threading.Timer(0.5, other.close).start()
    load_dataset(small, tmp_path / "cache", progress=False)
    assert capsys.readouterr().err == f"waiting for the process that is packing the features into {path}\n"


def test_a_cache_that_cannot_be_written(small: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be cached there \(.*\); expected a writable folder; set HW3P2_CACHE"):
        load_dataset(small, tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can make files")
def test_a_cache_folder_that_takes_no_files_is_not_waited_for(small: Path):
    with pytest.raises(InputError, match=r"/proc: the features cannot be cached there"):
        load_dataset(small, Path("/proc"))
