"""Where runs are trained, and where finished runs are kept: in the same folder, or under a URL."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from pathlib import Path

from folds.data.cache import cache_folder
from folds.launching.status import RunStatus, attempts_at, known_runs, read_status
from folds.store.fold_model import FoldModel
from folds.store.remote import RemoteStore, cache_of, store_url
from folds.store.run_folder import RunFolder
from registry import InputError


class Destination:
    """The folder or URL given by `--runs`. Raises InputError for a URL that cannot be read."""

    def __init__(self, runs: Path) -> None:
        self.url = store_url(runs) or ""
        self.folder = cache_of(self.url, cache_folder() / "launched").absolute() if self.url else runs.absolute()
        """The folder in which the runs are trained."""
        self._store = RemoteStore(self.url) if self.url else None
        self._uploaded = self._store.finished() if self._store is not None else set()

    def finished(self, folder: RunFolder) -> bool:
        """Whether a run is finished and, if there is a URL, uploaded."""
        return folder.finished if self._store is None else folder.name in self._uploaded

    def uploaded_runs(self, members: Container[str]) -> list[FoldModel]:
        """The runs of some members that are under the URL."""
        if self._store is None:
            return []
        names = (name for name in sorted(self._uploaded) if RunFolder(Path(name)).member in members)
        return [run for name in names if (run := self._store.read(name)) is not None]

    def refresh(self) -> None:
        """Look for what has been uploaded in the meantime."""
        if self._store is not None:
            self._uploaded = self._store.finished()

    def status(self, folder: RunFolder, earlier: int = 0) -> RunStatus:
        """Like `read_status`; but of a run that goes to a URL, other machines see only that it is finished."""
        status = read_status(folder, earlier)
        if self._store is None:
            return status
        if folder.name in self._uploaded:
            return dataclasses.replace(status, state="finished")
        if status.state == "finished":
            # Trained here, but not uploaded, or uploaded after the last look.
            attempts = attempts_at(folder)
            last = attempts[-1] if attempts else None
            if last is not None and last.event == "finished":
                return status
            if last is not None and last.event == "failed" and len(attempts) > earlier:
                return dataclasses.replace(status, state="failed", reason=last.reason)
            return dataclasses.replace(status, state="stopped")
        return status

    def known(self) -> list[RunFolder]:
        """All runs that were started here or are under the URL.

        Raises InputError if there is no runs folder, or nothing under the URL.
        """
        if self._store is None:
            return known_runs(self.folder)
        if not self._uploaded and not self.folder.is_dir():
            raise InputError(f"{self.url}: no runs there, nor any launched from here: pass --runs")
        here = {run.path for run in known_runs(self.folder)} if self.folder.is_dir() else set()
        return [RunFolder(path) for path in sorted(here | {self.folder / name for name in self._uploaded})]
