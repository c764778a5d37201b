"""The data through the real client: resumed, verified, unpacked where it belongs, and refused where it does not."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conftest import BlendResult, Desk

from folds.competition.detect import open_competition


def packed(files: dict[str, bytes], inside: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo()
            member.compress_type = zipfile.ZIP_DEFLATED
            member.filename = member.orig_filename = inside + name  # as it is: ZipInfo would mend it
            archive.writestr(member, content)
    return stream.getvalue()


@pytest.fixture(scope="session")
def files(tiny: Path) -> dict[str, bytes]:
    return {str(path.relative_to(tiny)): path.read_bytes() for path in sorted(tiny.rglob("*")) if path.is_file()}


def fetch(desk: Desk, **options: object) -> BlendResult:
    return desk.run(download=True, out=desk.folder / "data", **options)


def served(desk: Desk) -> list[str]:
    """The downloads the server was asked for, by the byte they began at."""
    return [request for request in desk.kaggle.requests if request.startswith("archive from")]


def expect_files(folder: Path, files: dict[str, bytes]) -> None:
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert not list(folder.rglob("*.part"))


def test_data_arrives_in_the_layout_that_training_takes(desk: Desk, files: dict[str, bytes]) -> None:
    desk.kaggle.archive = packed(files, inside="11785-hw3p2/")
    outcome = fetch(desk)
    assert outcome.status == 0, outcome
    root = desk.folder / "data" / "11785-hw3p2"
    expect_files(root, files)
    assert outcome.out.splitlines()[-1] == f"format F22-S26: python -m folds.train --data {root}"
    assert len(open_competition(desk.folder / "data").train.ids) == 48

    assert "hw.zip: 100%" in outcome.err and "unpacking: 100%" in outcome.err

    again = fetch(desk)
    assert again.status == 0 and "holds this version already" in again.out
    assert served(desk) == ["archive from 0"] * 3  # a look at the headers, the download, and another look


def test_broken_download_is_resumed(desk: Desk, files: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)  # the client writes a megabyte at a time
    desk.kaggle.archive = packed(files | {"noise.bin": noise})
    desk.kaggle.cut = [2 << 20]
    assert fetch(desk).status == 0
    expect_files(desk.folder / "data", files | {"noise.bin": noise})
    starts = [int(each.split()[-1]) for each in served(desk)]
    assert starts[:2] == [0, 0] and all(start >= 1 << 20 for start in starts[2:]) and len(starts) == 3


def test_download_that_was_killed_is_resumed_by_the_next_run(desk: Desk, files: dict[str, bytes]) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)
    desk.kaggle.archive = packed(files | {"noise.bin": noise})
    desk.kaggle.cut = [2 << 20]
    desk.kaggle.faults["archive"] = ["", "", *["hang"] * 9]
    first = fetch(desk, deadline=4.0)
    assert first.status == 1, first
    desk.kaggle.faults.clear()
    desk.kaggle.requests.clear()
    assert fetch(desk).status == 0
    expect_files(desk.folder / "data", files | {"noise.bin": noise})
    assert int(served(desk)[-1].split()[-1]) >= 1 << 20


def test_new_version_of_the_data_is_noticed_though_its_time_and_size_are_the_same(desk: Desk) -> None:
    desk.kaggle.archive = packed({"a.txt": b"first"})
    assert fetch(desk).status == 0
    desk.kaggle.archive = packed({"a.txt": b"other"})
    assert fetch(desk).status == 0
    expect_files(desk.folder / "data", {"a.txt": b"other"})


def test_layout_that_training_does_not_know_is_said(desk: Desk) -> None:
    desk.kaggle.archive = packed({"a.txt": b"a"})
    assert "folds.train does not know the layout" in fetch(desk).out


def test_damage_on_the_way_is_found_by_the_servers_checksum(desk: Desk) -> None:
    desk.kaggle.archive = packed({"a.txt": b"a"})
    desk.kaggle.headers = {"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}
    outcome = fetch(desk)
    assert outcome.status == 1
    assert "differs from the server's MD5" in outcome.err
    assert len(served(desk)) == 6  # the look, and five tries
    assert not (desk.folder / "data" / "a.txt").exists() and not (desk.folder / "data" / "hw.zip").exists()


def test_damage_inside_the_archive_is_found_by_its_own(desk: Desk) -> None:
    content = bytearray(packed({"a.txt": b"harmless", "b.bin": np.random.default_rng(0).bytes(1000)}))
    content[200] ^= 1
    desk.kaggle.archive = bytes(content)
    outcome = fetch(desk)
    assert outcome.status == 1
    assert "is damaged" in outcome.err and "run the same command again" in outcome.err
    assert not (desk.folder / "data" / "b.bin").exists() and not (desk.folder / "data" / "hw.zip").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_member_that_would_leave_the_folder_is_refused_and_nothing_is_unpacked(desk: Desk, name: str) -> None:
    desk.kaggle.archive = packed({"fine.txt": b"fine", name: b"evil"})
    outcome = fetch(desk)
    assert outcome.status == 1
    assert "would leave" in outcome.err and "nothing was unpacked" in outcome.err
    assert not list(desk.folder.rglob("*evil*")) and not (desk.folder / "data" / "fine.txt").exists()


def test_link_in_the_archive_and_link_in_the_folder_are_refused(desk: Desk) -> None:
    link = zipfile.ZipInfo("train-clean-100")
    link.external_attr = 0o120777 << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(link, "/tmp")
    desk.kaggle.archive = stream.getvalue()
    assert "would leave" in fetch(desk).err

    (desk.folder / "elsewhere").mkdir()
    (desk.folder / "data" / "linked").symlink_to(desk.folder / "elsewhere")
    desk.kaggle.archive = packed({"linked/a.txt": b"a"})
    assert "would leave" in fetch(desk).err
    assert not list((desk.folder / "elsewhere").iterdir())


def test_free_space_is_looked_at_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.kaggle.archive = packed({"a.bin": bytes(100_000)})  # zeros: the zip is small
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 10))
    outcome = fetch(desk)
    assert outcome.status == 2 and "no room for the zip" in outcome.err
    assert len(served(desk)) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 50_000))
    outcome = fetch(desk)
    assert outcome.status == 2 and "no room for the unpacked files" in outcome.err
    assert not (desk.folder / "data" / "a.bin").exists()
    assert json.loads((desk.folder / "data" / ".download.json").read_text())["state"] == "fetched"


def test_rules_not_accepted(desk: Desk) -> None:
    desk.kaggle.faults["DownloadDataFiles"] = ["403"]
    outcome = fetch(desk)
    assert outcome.status == 1
    assert "accept the rules at https://www.kaggle.com/competitions/hw/rules" in outcome.err


def test_page_instead_of_the_archive(desk: Desk) -> None:
    desk.kaggle.archive = b"<!doctype html>"
    assert "is damaged" in fetch(desk).err


def test_folder_must_be_given(desk: Desk) -> None:
    outcome = desk.run(download=True)
    assert outcome.status == 2 and "--out DIR" in outcome.err
