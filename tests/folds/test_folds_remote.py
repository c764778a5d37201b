"""Runs under a URL: an upload cut at every request is never read in part; what is refused."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from folds.launching.attempt import Outcome
from folds.launching.destination import Destination
from folds.launching.executor_task import ExecutorTask
from folds.launching.launcher import Launcher
from folds.launching.options import LaunchOptions
from folds.launching.tasks import make_tasks
from folds.store import remote
from folds.store.attempts import record_attempt
from folds.store.fold_model import find_fold_models
from folds.store.remote import MANIFEST, RemoteStore, cache_of, local_copy, store_url
from folds.store.run_folder import RunFolder
from folds.training.guide import find_guide
from folds.training.warm_restart import find_source
from registry import InputError


class Cut(Exception):
    """The process was killed here."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> RemoteStore:
    """An empty store in memory."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return RemoteStore("memory://bucket/runs")


def copy_of(undisturbed: Path, runs: Path) -> RunFolder:
    """A copy of a trained run under `runs`."""
    shutil.copytree(undisturbed, runs / "lstm_small" / "fold0")
    return RunFolder(runs / "lstm_small" / "fold0")


def cut_after(monkeypatch: pytest.MonkeyPatch, requests: int) -> list[str]:
    """Raise Cut at the request after so many that change the file system; returns the list of those made."""
    made: list[str] = []

    def counted(name):
        original = getattr(MemoryFileSystem, name)

        def request(self, *arguments, **options):
            if len(made) == requests:
                raise Cut
            made.append(name)
            return original(self, *arguments, **options)

        return request

    for name in ("put_file", "pipe_file", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, counted(name))
    return made


def test_urls_and_folders():
    assert store_url(Path("gs://bucket")) == "gs://bucket" and store_url(Path("file:///tmp/x")) == "file:///tmp/x"
    assert [store_url(Path(path)) for path in ("runs", "/a/b", "C:/runs", "a:b/c")] == [None] * 4


@pytest.mark.parametrize("again", [False, True])
def test_an_upload_cut_at_any_request_is_not_read(again, store, undisturbed, tmp_path, monkeypatch):
    """With `again`, a complete run of other bytes was there before: the two are never mixed."""
    run = copy_of(undisturbed, tmp_path / "runs")
    other = copy_of(undisturbed, tmp_path / "other")
    other.metrics.write_text("")
    total = len(run.results) + 1 + again  # the files, the manifest, and the removal of the one before
    for requests in range(total + 1):
        MemoryFileSystem.store.clear()
        if again:
            store.upload(other)
        with pytest.MonkeyPatch.context() as patch:
            made = cut_after(patch, requests)
            if requests < total:
                with pytest.raises(InputError, match="Cut"):
                    store.upload(run)
            else:
                store.upload(run)
        assert len(made) == requests
        copy = local_copy(Path(store.url), tmp_path / "cache")
        found = [folder.metrics.read_text() for folder in map(RunFolder, copy.glob("*/fold*"))]
        whole = [run.metrics.read_text()] if requests == total else [""] if again and requests == 0 else []
        assert found == whole
    (fold_model,) = find_fold_models(copy)
    assert fold_model.load("oof").ids == find_fold_models(tmp_path / "runs")[0].load("oof").ids


def test_a_copy_follows_the_store(store, undisturbed, tmp_path, capsys):
    run = copy_of(undisturbed, tmp_path / "runs")
    store.upload(run)
    copy = local_copy(Path(store.url), tmp_path / "cache")
    before = (copy / "lstm_small/fold0/oof.safetensors").stat().st_mtime_ns
    assert local_copy(Path(store.url), tmp_path / "cache") == copy
    assert (copy / "lstm_small/fold0/oof.safetensors").stat().st_mtime_ns == before  # not copied again
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/runs/lstm_small/fold0/oof.safetensors", b"damaged")
    manifest = json.loads(files.cat_file("/bucket/runs/lstm_small/fold0/" + MANIFEST))
    files.pipe_file("/bucket/runs/lstm_small/fold0/" + MANIFEST, json.dumps(manifest, indent=1).encode())
    local_copy(Path(store.url), tmp_path / "cache")
    assert "lstm_small/fold0 is incomplete" in capsys.readouterr().err
    assert not (copy / "lstm_small/fold0").exists()  # the copy is of a run that is not there any more
    store.upload(run)
    assert find_fold_models(local_copy(Path(store.url), tmp_path / "cache"))
    files.rm("/bucket/runs/lstm_small/fold0/" + MANIFEST)
    assert not find_fold_models(local_copy(Path(store.url), tmp_path / "cache"))


def test_the_copies_of_two_urls_are_in_two_folders(store, undisturbed, tmp_path):
    """Each is made to hold the runs of its URL and no others."""
    run = copy_of(undisturbed, tmp_path / "runs")
    store.upload(run)
    RemoteStore("memory://bucket/more").upload(run)
    copies = [local_copy(Path(url), tmp_path / "cache") for url in (store.url, "memory://bucket/more")]
    MemoryFileSystem.store.pop(f"/bucket/more/lstm_small/fold0/{MANIFEST}")
    local_copy(Path("memory://bucket/more"), tmp_path / "cache")
    assert [len(find_fold_models(copy)) for copy in copies] == [1, 0]


@pytest.mark.parametrize("name", ["../../../x", "/x", "other.bin"])
def test_a_manifest_cannot_name_other_files(name, store, undisturbed, tmp_path):
    store.upload(copy_of(undisturbed, tmp_path / "runs"))
    path = "/bucket/runs/lstm_small/fold0/" + MANIFEST
    files = fsspec.filesystem("memory")
    manifest = json.loads(files.cat_file(path))
    manifest["files"][name] = manifest["files"]["config.json"]
    files.pipe_file(path, json.dumps(manifest).encode())
    assert not find_fold_models(local_copy(Path(store.url), tmp_path / "cache"))


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(store, undisturbed, tmp_path, monkeypatch):
    """Its runs would be missing from a blend, and their copies deleted."""
    store.upload(copy_of(undisturbed, tmp_path / "runs"))
    store.download_all(tmp_path / "copy")
    listed = MemoryFileSystem.ls

    def refusing(self, path, detail=True, **options):
        if str(path).endswith("lstm_small"):
            raise PermissionError(13, "Access denied")
        return listed(self, path, detail=detail, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", refusing)
    with pytest.raises(InputError, match="Access denied"):
        store.download_all(tmp_path / "copy")
    assert (tmp_path / "copy" / "lstm_small" / "fold0" / "config.json").exists()


def test_a_destination_under_a_url(store, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    destination = Destination(Path(store.url))
    run = copy_of(undisturbed, destination.folder)
    assert not destination.finished(run) and destination.status(run).state == "stopped"
    assert destination.known() == [run]
    record_attempt(run.attempts, "failed", "local", reason="s3://bucket: no answer")
    failed = destination.status(run)
    assert (failed.state, failed.reason) == ("failed", "s3://bucket: no answer")
    assert destination.status(run, earlier=1).state == "stopped"  # by an earlier launch
    record_attempt(run.attempts, "finished", "local")
    assert destination.status(run).state == "finished" and not destination.finished(run)
    run.attempts.write_text('{"event": "of a later version"}\n')
    assert destination.status(run).state == "stopped"
    store.upload(run)
    destination.refresh()
    assert destination.finished(run) and destination.status(run).state == "finished" and destination.known() == [run]


def test_the_configuration_of_an_uploaded_run_is_read_by_itself(store, undisturbed, tmp_path):
    run = copy_of(undisturbed, tmp_path)
    store.upload(run)
    assert store.read(run.name).recorded == json.loads(run.config.read_text())
    fsspec.filesystem("memory").pipe_file(f"/bucket/runs/{run.name}/config.json", b"{")
    with pytest.raises(InputError, match="lstm_small/fold0: its config.json is damaged: upload or train it again"):
        store.read(run.name)
    assert store.read("gru/fold0") is None


def test_runs_to_start_from_and_guides_are_downloaded(store, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    run, url = copy_of(undisturbed, tmp_path / "elsewhere"), Path(store.url)
    store.upload(run)
    found = [
        find_source(url, "lstm_small", 0, 0, 2),
        find_source(url, "lstm_small", 0, 0, 1),  # a fold model, as there is no refit
        find_source(url / "lstm_small" / "fold0", "student", 0, 0, 1),
        find_guide(url / "lstm_small", 0),
        find_guide(url / "lstm_small" / "fold0", 1),
    ]
    copy = cache_of(store.url, tmp_path / "cache" / "stores") / "lstm_small" / "fold0"
    assert {source.path for source in found} == {copy}
    assert RunFolder(copy).weights_hash == run.weights_hash and not RunFolder(copy).best_weights.exists()
    for missing, message in (
        (lambda: find_source(url, "lstm_small", 1, 0, 2), f"{store.url}/lstm_small/fold1: no complete run"),
        (lambda: find_source(url, "gru", 0, 1, 1), "neither gru.seed1.all nor a fold model of gru.seed1: train gru"),
        (lambda: find_source(url / "lstm_small" / "fold0", "x", 1, 0, 2), "is fold 0 of 2, but fold 1 of 2 is to be"),
        (lambda: find_guide(url / "lstm_small", 1), f"{store.url}/lstm_small/fold1: no complete run"),
    ):
        with pytest.raises(InputError) as caught:
            missing()
        assert message in str(caught.value)


def test_a_refit_under_a_url_is_preferred(store, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    store.upload(copy_of(undisturbed, tmp_path))
    shutil.copytree(undisturbed, tmp_path / "lstm_small.all" / "fold0")
    store.upload(RunFolder(tmp_path / "lstm_small.all" / "fold0"))
    assert find_source(Path(store.url), "lstm_small", 0, 0, 1).path.parent.name == "lstm_small.all"


def test_several_processes_may_download_a_run(undisturbed, tmp_path, monkeypatch):
    """From a folder, because files in memory are read by one thread at a time; all copies are ready at once."""
    run, store, rename = copy_of(undisturbed, tmp_path), RemoteStore(f"file://{tmp_path / 'uploaded'}"), Path.rename
    store.upload(run)

    def slow_rename(path, target):
        time.sleep(0.1)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slow_rename)
    with ThreadPoolExecutor(4) as threads:
        downloads = [threads.submit(store.download, run.name, tmp_path / "copy" / run.name) for _ in range(4)]
        assert all(download.result() for download in downloads)
    assert RunFolder(tmp_path / "copy" / run.name).weights_hash == run.weights_hash


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://bucket/runs", "s4://bucket/runs: no such file system (ValueError: Protocol not known: s4)"),
        ("gs://bucket/runs", "gs://bucket/runs: gcsfs is not installed: pip install gcsfs"),
    ],
)
def test_a_url_without_its_file_system(url, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match="^[^\n]*$") as error:
        Destination(Path(url))
    assert message in str(error.value)


def test_a_silent_server_is_one_line(store, monkeypatch):
    monkeypatch.setattr(remote, "ANSWER_S", 0.05)
    silent = threading.Event()
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path: silent.wait(20))
    with pytest.raises(InputError, match="^memory://bucket/runs: no answer within 0.05 s: check the URL and the"):
        Destination(Path(store.url))
    silent.set()


class FailingExecutor:
    """Its machines upload what they have trained; their files are not seen here, so that the attempt seems to fail."""

    poll_s = 0.0

    def __init__(self, upload: Callable[[], None]) -> None:
        self.upload, self.submitted, self._running = upload, [], []

    def submit(self, tasks: Sequence[ExecutorTask]) -> None:
        for task in tasks:
            self.upload()
            self.submitted.append(task.title)
            self._running.append(task)

    def ended(self) -> list[tuple[ExecutorTask, Outcome]]:
        running, self._running = self._running, []
        return [(task, Outcome("failed", "its files are not here")) for task in running]

    def close(self) -> None:
        pass


def test_a_run_that_another_machine_has_uploaded_is_not_trained_again(store, undisturbed, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HW3P2_CACHE", str(tmp_path / "cache"))
    run = copy_of(undisturbed, tmp_path / "elsewhere")
    destination = Destination(Path("memory://bucket/runs"))
    options = LaunchOptions(data=tiny, models="lstm_small", fold_count=2, folds="0")
    (task,) = make_tasks(options.read_plan(), options, destination, [])
    executor = FailingExecutor(lambda: store.upload(run))
    assert Launcher(executor, retries=3, destination=destination).run([task]) == {}
    assert executor.submitted == [task.title]
