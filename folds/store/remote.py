"""Finished runs in object storage, or on any other fsspec file system, by URL: `s3://bucket/runs`.

A run is uploaded as a whole: first its files, then manifest.json with the size and the hash of each. Readers ignore a
run without a manifest, and leave out one whose files do not match it, so an upload that is interrupted at any moment,
or repeated, is never read in part. Reading copies runs into a local folder, where they are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import fsspec
from filelock import FileLock
from msgspec import Meta, Struct

from folds.store.fold_model import FoldModel, fold_model_of
from folds.store.run_folder import RunFolder
from folds.store.schemas import Count
from registry import InputError
from registry.errors import one_line
from registry.json_files import convert
from registry.redaction import redact

MANIFEST = "manifest.json"
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+]+):/+(?P<rest>.+)")
_RUN = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.+-]*/fold\d+)/manifest\.json")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""The package to install for each URL scheme."""
ANSWER_S = 20.0
"""Seconds within which a server must answer."""


class FileFacts(Struct, frozen=True):
    """A manifest's entry for a file."""

    size: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(Struct, frozen=True):
    """manifest.json: all files of a run, by name."""

    files: dict[str, FileFacts]


def store_url(runs: Path) -> str | None:
    """The URL if one was given as the runs folder; None for a folder.

    Options for folders are paths, and a path keeps only one of two slashes.

    >>> store_url(Path("s3://bucket/runs")), store_url(Path("/home/me/runs"))
    ('s3://bucket/runs', None)
    """
    if (match := _URL.fullmatch(runs.as_posix())) is None:
        return None
    slashes = ":///" if match["scheme"] in ("file", "local") else "://"
    return match["scheme"] + slashes + match["rest"]


def local_copy(runs: Path, cache: Path) -> Path:
    """A folder with the finished runs of `runs`: itself, or for a URL one under `cache`, which is updated."""
    url = store_url(runs)
    if url is None:
        return runs
    folder = cache_of(url, cache)
    RemoteStore(url).download_all(folder)
    return folder


def download_run(run: Path, cache: Path) -> Path:
    """A copy under `cache` of the run with this URL, such as `s3://bucket/runs/gru/fold0`.

    Raises InputError if there is no complete run under the URL.
    """
    url, name = store_url(run.parent.parent), RunFolder(run).name
    if url is None:
        raise InputError(f"{run}: not the URL of a run: expected one such as s3://bucket/runs/gru/fold0")
    folder = cache_of(url, cache) / name
    if not RemoteStore(url).download(name, folder):
        raise InputError(f"{url}/{name}: no complete run: train it first, or wait until it is uploaded")
    return folder


def cache_of(url: str, cache: Path) -> Path:
    """The folder under `cache` for the runs of a URL."""
    return cache / hashlib.sha256(url.encode()).hexdigest()[:16]


class RemoteStore:
    """The runs under a URL. Every method raises InputError for errors of the file system."""

    def __init__(self, url: str) -> None:
        self.url = url
        scheme = url.partition(":")[0]
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError:
            package = PACKAGES.get(scheme, f"the fsspec package for {scheme}")
            raise InputError(f"{url}: {package} is not installed: pip install {package}") from None
        except ValueError as error:
            raise InputError(f"{url}: no such file system ({one_line(error)}): expected s3://bucket/folder") from None

    def finished(self) -> set[str]:
        """The names of the runs that are uploaded completely, such as `gru.seed1/fold0`."""
        self._check_answers()
        with self._refusals():
            self._files.invalidate_cache()
            # `glob` would treat a folder that cannot be listed as empty.
            folds = [fold for member in self._folders(self._root) for fold in self._folders(member)]
            files = [file for fold in folds for file in self._listed(fold)]
        matches = (_RUN.fullmatch(str(file["name"]).removeprefix(self._root).lstrip("/")) for file in files)
        return {match["name"] for match in matches if match}

    def _folders(self, folder: str) -> list[str]:
        return [entry["name"] for entry in self._listed(folder) if entry["type"] == "directory"]

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            return self._files.ls(folder, detail=True)
        except FileNotFoundError:  # a bucket has no empty folders
            return []

    def read(self, name: str) -> FoldModel | None:
        """The fold model of an uploaded run, by its config.json; None if it has been removed in the meantime."""
        folder = RunFolder(Path(self.url, name))
        content = self._content(name, folder.config.name)
        if content is None:
            return None
        try:
            recorded = convert(json.loads(content), dict[str, Any], "config.json")
        except (InputError, ValueError):
            raise InputError(f"{self.url}/{name}: its config.json is damaged: upload or train it again") from None
        return fold_model_of(folder, recorded)

    def upload(self, folder: RunFolder) -> None:
        """Upload a finished run. Readers do not see it until all of it is there, even if they did before."""
        names = {str(path.relative_to(folder.path)): path for path in folder.results if path.exists()}
        manifest = {"files": {name: {"size": p.stat().st_size, "sha256": _hash(p)} for name, p in names.items()}}
        where = f"{self._root}/{folder.name}"
        with self._refusals():
            self._files.invalidate_cache()
            if self._files.exists(f"{where}/{MANIFEST}"):
                self._files.rm_file(f"{where}/{MANIFEST}")
            for name, path in names.items():
                self._files.makedirs(f"{where}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), f"{where}/{name}")
            self._files.pipe_file(f"{where}/{MANIFEST}", json.dumps(manifest).encode())

    def download_all(self, into: Path) -> None:
        """Make `into` hold all runs, and no others. Runs that do not match their manifest are named on stderr."""
        names = self.finished()
        into.mkdir(parents=True, exist_ok=True)
        for config in into.glob("*/fold*/config.json"):
            if f"{config.parent.parent.name}/{config.parent.name}" not in names:
                shutil.rmtree(config.parent)
        for name in sorted(names):
            if not self.download(name, into / name):
                shutil.rmtree(into / name, ignore_errors=True)
                note = f"left out: {self.url}/{name} is incomplete: it is being uploaded, or damaged"
                print(redact(note), file=sys.stderr)

    def download(self, name: str, target: Path) -> bool:
        """Copy a run to the folder `target` unless it is already there; returns False if the upload is incomplete."""
        manifest = self._manifest(name)
        if manifest is None:
            return False
        present = target / MANIFEST
        if present.exists() and present.read_bytes() == manifest[0]:
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
            copy = Path(scratch) / "run"
            for file, facts in manifest[1].files.items():
                path = copy / file
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._refusals():
                    try:
                        self._files.get_file(f"{self._root}/{name}/{file}", str(path))
                    except FileNotFoundError:
                        return False
                if path.stat().st_size != facts.size or _hash(path) != facts.sha256:
                    return False
            (copy / MANIFEST).write_bytes(manifest[0])
            with FileLock(target.parent / f".{target.name}.lock"):  # several processes may download the same run
                if target.exists():
                    target.rename(Path(scratch) / "before")
                copy.rename(target)
        return True

    def _content(self, name: str, file: str) -> bytes | None:
        """The bytes of a file of an uploaded run; None if there is none."""
        with self._refusals():
            try:
                content: bytes = self._files.cat_file(f"{self._root}/{name}/{file}")
            except FileNotFoundError:
                return None
        return content

    def _manifest(self, name: str) -> tuple[bytes, Manifest] | None:
        """The bytes and the content of a run's manifest; None if it is missing or invalid."""
        content = self._content(name, MANIFEST)
        if content is None:
            return None
        try:
            manifest = convert(json.loads(content), Manifest, MANIFEST)
        except (InputError, ValueError):
            return None
        run = RunFolder(Path(name))
        expected = {path.relative_to(run.path).as_posix() for path in run.results}
        # Only the names of a run's files may become paths here.
        return (content, manifest) if set(manifest.files) <= expected else None

    def _check_answers(self) -> None:
        """Raise InputError if the server does not answer: object storage clients would retry for many minutes."""

        def ask() -> None:
            with contextlib.suppress(Exception):  # an error is an answer, too; the next request reports it
                self._files.info(self._root)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(ANSWER_S)
        if thread.is_alive():
            raise InputError(f"{self.url}: no answer within {ANSWER_S:g} s: check the URL and the network")

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - each file system has its own errors
            reason = redact(one_line(error))[:500]
            raise InputError(f"{self.url}: {reason}: check the URL and the credentials") from None


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(runs: Path) -> None:
    """Raise InputError for a URL where a folder is required."""
    if url := store_url(runs):
        raise InputError(f"--runs {url}: expected a folder: only python -m folds.launch uploads what it has trained")


