"""The study on disk: Optuna's journal, shared by processes and machines, and the folder with everything else.

    tune/pblstm_small.journal        every trial: its values, its distances, its state
    tune/pblstm_small/stage<k>/      the runs of the trials, by stage
    tune/pblstm_small/compare/       full runs of the winner and of the preset
    tune/pblstm_small/workers/       logs and attempts of the processes that work on trials, with --jobs or --on
    tune/pblstm_small/best.json      the winner, for `folds.train --config`
    tune/pblstm_small/report.html    Optuna's plots

Optuna's journal has a lock, which is taken from a process that holds it for more than 30 s, but no heartbeat: the lease
of a trial shows whether its process is alive.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from folds.store.lease import EXPIRY_S, Held, hold
from registry import InputError
from registry.errors import one_line
from registry.files import check_writable, listed
from registry.json_files import read_json_lines

if TYPE_CHECKING:
    import optuna

NAME = "folds.tune"
"""The name of the study in its journal."""
FINISHED = "finished"
"""The file in the study's folder that exists once all its work is done."""
TURN_S = EXPIRY_S + 60
"""How long to wait for a process that is choosing its next trial. That takes a second; but if its machine has died, its
lease must expire first."""


@dataclass(frozen=True)
class StudyPaths:
    """The files of the study whose journal is `journal`, a path that ends in .journal."""

    journal: Path

    @property
    def folder(self) -> Path:
        return self.journal.with_suffix("")

    def stage(self, index: int) -> Path:
        """The runs folder of a stage, counted from 0."""
        return self.folder / f"stage{index + 1}"

    @property
    def compare(self) -> Path:
        """The runs folder of the winner and of the preset."""
        return self.folder / "compare"

    @property
    def trials(self) -> Path:
        """Contains a folder for each trial that a process works on."""
        return self.folder / "trials"

    def trial(self, run: str) -> Path:
        """The folder whose lease is held by the process that works on the trial."""
        return self.trials / run

    @property
    def finished(self) -> Path:
        """Exists once all trials are finished and the winner has been compared with the preset."""
        return self.folder / FINISHED

    @property
    def log(self) -> Path:
        """The output of training."""
        return self.folder / "log.txt"

    @property
    def best(self) -> Path:
        return self.folder / "best.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def range_test(self) -> Path:
        """The curve of `--find-lr`."""
        return self.folder / "find_lr.html"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let one process at a time into the block. Raises Held if another one does not leave it."""
        deadline = time.monotonic() + TURN_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(hold(self.folder / "turn", self.journal.name))
                    break
                except Held:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(random.uniform(0.1, 0.5))
            yield


class _JournalEntry(msgspec.Struct):
    """The fields that every line of a journal has."""

    op_code: int
    worker_id: str


def check_optuna() -> None:
    """Raise InputError unless Optuna and the library that draws its plots are installed."""
    try:
        import optuna
        import plotly  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"python -m folds.tune needs {error.name}, which is not installed: pip install -e '.[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def open_study(paths: StudyPaths, settings: Mapping[str, Any]) -> optuna.Study:
    """The study, created if there is none; a last line that a killed process left incomplete is deleted.

    Raises InputError for a damaged journal, a study with other `settings`, and a new one whose folder has runs.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    check_writable(paths.journal)
    with paths.turn():
        # An absolute path: Optuna's locks are looked up relative to different folders.
        name = os.path.realpath(paths.journal)
        lock = JournalFileOpenLock(name)
        _check_journal(paths.journal, lock)
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(name, lock_obj=lock))
            names = optuna.get_all_study_names(storage)
            if names not in ([], [NAME]):
                raise InputError(f"{paths.journal}: the journal of another study, {names[0]}: pass another --study")
            if names:
                study = optuna.load_study(storage=storage, study_name=NAME)
            else:
                _check_no_runs(paths)
                paths.finished.unlink(missing_ok=True)
                study = optuna.create_study(storage=storage, study_name=NAME, direction="minimize")
            _check_settings(study, settings, paths.journal)
        except (KeyError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise InputError(
                f"{paths.journal}: not the journal of a study ({one_line(error)}): restore it, or pass another --study"
            ) from None
    return study


def _check_no_runs(paths: StudyPaths) -> None:
    """Raise InputError if the folder of a new study has runs, since its trials would have the same names."""
    if any(listed(folder, "*") for folder in (paths.stage(0), paths.compare, paths.trials)):
        raise InputError(f"{paths.folder}: has the runs of another study: delete the folder, or pass another --study")


def _check_settings(study: optuna.Study, settings: Mapping[str, Any], journal: Path) -> None:
    """Record the settings of a new study; raise InputError if an existing one has other settings."""
    recorded = study.user_attrs.get("settings")
    if recorded is None:
        study.set_user_attr("settings", dict(settings))
        return
    keys = [*settings, *(key for key in recorded if key not in settings)]
    changed = [key for key in keys if recorded.get(key) != settings.get(key)]
    if changed:
        difference = "; ".join(f"{key} was {recorded.get(key)}, now {settings.get(key)}" for key in changed)
        raise InputError(
            f"{journal}: a study with different settings ({difference}): use the same, or another file for --study"
        )


def _check_journal(path: Path, lock: Any) -> None:
    """Raise InputError for a journal with unreadable lines; delete an incomplete last one."""
    if not path.exists():
        return
    lock.acquire()
    try:
        read_json_lines(path, _JournalEntry)
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # Otherwise the next line would be appended to the rest of this one.
            os.truncate(path, whole)
            print(f"{path}: removed an incomplete last line, left by a killed process", file=sys.stderr)
    finally:
        lock.release()
