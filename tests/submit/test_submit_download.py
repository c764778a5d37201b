"""Downloads through the real client: resumed, verified, unpacked inside the folder, and refused outside it."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CommandResult, Harness

from folds.competition.detect import open_competition
from submit.client import Failure
from submit.download import _unpack


def zipped(files: dict[str, bytes], folder: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo()
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.filename = entry.orig_filename = folder + name  # unchanged: ZipInfo(name) would sanitize it
            archive.writestr(entry, content)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def files(tiny: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tiny)): path.read_bytes() for path in sorted(tiny.rglob("*")) if path.is_file()}


def fetch(harness: Harness, **options: Any) -> CommandResult:
    return harness.run(download=True, out=harness.folder / "data", **options)


def downloads(harness: Harness) -> list[str]:
    """The downloads requested from the server, with the byte at which each began."""
    return [request for request in harness.kaggle.requests if request.startswith("archive from")]


def expect_files(folder: Path, files: dict[str, bytes]) -> None:
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert not list(folder.rglob("*.part"))


def test_data_is_unpacked_in_the_layout_that_training_reads(harness: Harness, files: dict[str, bytes]) -> None:
    harness.kaggle.archive = zipped(files, folder="11785-hw3p2/")
    outcome = fetch(harness)
    assert outcome.status == 0, outcome
    root = harness.folder / "data" / "11785-hw3p2"
    expect_files(root, files)
    assert outcome.out.splitlines()[-1] == f"format F22-S26: python -m folds.train --data {root}"
    assert len(open_competition(harness.folder / "data").train.ids) == 48

    assert outcome.err == ""  # no progress bars, because standard error is not a terminal

    again = fetch(harness)
    assert again.status == 0 and "already has this version" in again.out
    assert downloads(harness) == ["archive from 0"] * 3  # the headers, the download, and the headers again


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars_reach_the_end_on_a_terminal(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    harness.kaggle.archive = zipped({"noise.bin": np.random.default_rng(0).bytes(1 << 20)})
    outcome = fetch(harness, err=Terminal())
    assert outcome.status == 0, outcome
    for description in ("hw.zip", "unpacking"):
        last = [line for line in re.split(r"[\r\n]", outcome.err) if description in line][-1]
        assert "100%" in last


def test_broken_download_is_resumed(harness: Harness, files: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)  # the client writes a megabyte at a time
    harness.kaggle.archive = zipped(files | {"noise.bin": noise})
    harness.kaggle.cut = [2 << 20]
    assert fetch(harness).status == 0
    expect_files(harness.folder / "data", files | {"noise.bin": noise})
    starts = [int(request.split()[-1]) for request in downloads(harness)]
    assert starts[:2] == [0, 0] and all(start >= 1 << 20 for start in starts[2:]) and len(starts) == 3


def test_download_that_was_killed_is_resumed_by_the_next_run(harness: Harness, files: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)
    harness.kaggle.archive = zipped(files | {"noise.bin": noise})
    harness.kaggle.cut = [2 << 20]
    harness.kaggle.faults["archive"] = ["", "", *["hang"] * 9]
    first = fetch(harness, deadline=4.0)
    assert first.status == 1, first
    harness.kaggle.faults.clear()
    harness.kaggle.requests.clear()
    assert fetch(harness).status == 0
    expect_files(harness.folder / "data", files | {"noise.bin": noise})
    assert int(downloads(harness)[-1].split()[-1]) >= 1 << 20


def test_new_version_of_the_data_with_the_same_time_and_size_is_detected(harness: Harness) -> None:
    harness.kaggle.archive = zipped({"a.txt": b"first"})
    assert fetch(harness).status == 0
    harness.kaggle.archive = zipped({"a.txt": b"other"})
    assert fetch(harness).status == 0
    expect_files(harness.folder / "data", {"a.txt": b"other"})


def test_unknown_layout_is_reported(harness: Harness) -> None:
    harness.kaggle.archive = zipped({"a.txt": b"a"})
    assert "folds.train does not know its layout" in fetch(harness).out


def test_damage_in_transit_is_found_by_the_servers_checksum(harness: Harness) -> None:
    harness.kaggle.archive = zipped({"a.txt": b"a"})
    harness.kaggle.headers = {"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}
    outcome = fetch(harness)
    assert outcome.status == 1
    assert "differs from the server's MD5" in outcome.err
    assert len(downloads(harness)) == 6  # the headers, and five tries
    assert not (harness.folder / "data" / "a.txt").exists() and not (harness.folder / "data" / "hw.zip").exists()


def test_damage_inside_the_archive_is_found_by_the_archives_checksums(harness: Harness) -> None:
    content = bytearray(zipped({"a.txt": b"harmless", "b.bin": np.random.default_rng(0).bytes(1000)}))
    content[200] ^= 1
    harness.kaggle.archive = bytes(content)
    outcome = fetch(harness)
    assert outcome.status == 1
    assert "is damaged" in outcome.err and "run the same command again" in outcome.err
    assert not (harness.folder / "data" / "b.bin").exists() and not (harness.folder / "data" / "hw.zip").exists()


def flipped(content: bytes, mark: bytes, offset: int, bits: int) -> bytes:
    """The content with other bits in a byte after the last `mark`."""
    damaged = bytearray(content)
    damaged[content.rindex(mark) + offset] ^= bits
    return bytes(damaged)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "encrypted": lambda content: flipped(content, b"PK\x01\x02", 8, 1),
    "other compression": lambda content: flipped(content, b"PK\x01\x02", 10, 4),
    "unknown compression": lambda content: flipped(content, b"PK\x01\x02", 10, 64),
    "name that is not UTF-8": lambda content: content.replace("ü".encode(), b"\xff\xff"),
    "position of the directory": lambda content: flipped(content, b"PK\x05\x06", 17, 1),
    "cut off": lambda content: content[:-30],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_archive_whose_structure_is_damaged_is_removed(tmp_path: Path, damage: str) -> None:
    """Otherwise the next run would unpack it again instead of downloading it."""
    archive = tmp_path / "hw.zip"
    archive.write_bytes(DAMAGE[damage](zipped({"a.txt": b"harmless", "ü.txt": b"harmless"})))
    with pytest.raises(Failure, match=r"hw.zip is damaged \(.*\) and was removed: run the same command again"):
        _unpack(archive, tmp_path)
    assert not archive.exists()


@pytest.mark.parametrize(("number", "filename"), [(errno.ENOSPC, None), (errno.EIO, None), (errno.EINVAL, "a:b.txt")])
def test_archive_is_kept_when_its_files_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, filename: str | None
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), filename)

    archive = tmp_path / "hw.zip"
    archive.write_bytes(zipped({"a.txt": b"a"}))
    monkeypatch.setattr("submit.download._extract", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        _unpack(archive, tmp_path)
    assert archive.exists()


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_entry_that_would_leave_the_folder_is_refused_and_nothing_is_unzipped(harness: Harness, name: str) -> None:
    harness.kaggle.archive = zipped({"fine.txt": b"fine", name: b"evil"})
    outcome = fetch(harness)
    assert outcome.status == 1
    assert "would leave" in outcome.err and "nothing was unpacked" in outcome.err
    assert not list(harness.folder.rglob("*evil*")) and not (harness.folder / "data" / "fine.txt").exists()


def test_link_in_the_archive_and_link_in_the_folder_are_refused(harness: Harness) -> None:
    link = zipfile.ZipInfo("train-clean-100")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/tmp")
    harness.kaggle.archive = buffer.getvalue()
    assert "would leave" in fetch(harness).err

    (harness.folder / "elsewhere").mkdir()
    (harness.folder / "data" / "linked").symlink_to(harness.folder / "elsewhere")
    harness.kaggle.archive = zipped({"linked/a.txt": b"a"})
    assert "would leave" in fetch(harness).err
    assert not list((harness.folder / "elsewhere").iterdir())


def test_free_space_is_checked_first(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.kaggle.archive = zipped({"a.bin": bytes(100_000)})  # zeros: the zip is small
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 10))
    outcome = fetch(harness)
    assert outcome.status == 2 and "not enough space for the zip" in outcome.err
    assert len(downloads(harness)) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 50_000))
    outcome = fetch(harness)
    assert outcome.status == 2 and "not enough space for the unpacked files" in outcome.err
    assert not (harness.folder / "data" / "a.bin").exists()
    assert json.loads((harness.folder / "data" / ".download.json").read_text())["state"] == "fetched"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 10**6))
    (harness.folder / "data" / "hw.zip").unlink()  # to make room
    assert fetch(harness).status == 0
    expect_files(harness.folder / "data", {"a.bin": bytes(100_000)})


def test_rules_not_accepted(harness: Harness) -> None:
    harness.kaggle.faults["DownloadDataFiles"] = ["403"]
    outcome = fetch(harness)
    assert outcome.status == 1
    assert "accept the rules at https://www.kaggle.com/competitions/hw/rules" in outcome.err


def test_page_instead_of_the_archive(harness: Harness) -> None:
    harness.kaggle.archive = b"<!doctype html>"
    assert "is damaged" in fetch(harness).err


@pytest.mark.parametrize("endpoint", ["DownloadDataFiles", "archive"])
def test_page_instead_of_an_answer_is_reported_and_leaves_nothing(harness: Harness, endpoint: str) -> None:
    harness.kaggle.archive = zipped({"a.txt": b"a"})
    harness.kaggle.faults[endpoint] = ["html"] * 9
    outcome = fetch(harness)
    assert outcome.status == 1 and "was not from Kaggle's API" in outcome.err and "login page" in outcome.err
    assert not (harness.folder / "data").exists()


def test_folder_must_be_given(harness: Harness) -> None:
    outcome = harness.run(download=True)
    assert outcome.status == 2 and "--out DIR" in outcome.err
