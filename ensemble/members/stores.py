"""The options of commands that read trained models: one or more runs folders, and the number of threads."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ensemble.threads import set_worker_threads
from folds.data.cache import cache_folder
from folds.data.data_options import DataOptions
from folds.store.fold_model import FoldModel, find_fold_models, unfinished_runs
from folds.store.remote import local_copy, store_url
from folds.store.run_folder import RunFolder
from registry import InputError
from registry.bounds import MAX_THREADS, number


@dataclass(frozen=True)
class StoresOptions(DataOptions):
    """The competition's data, and where trained models are."""

    runs: tuple[Path, ...] = (Path("runs"),)
    """One or more runs folders, or URLs such as s3://bucket/runs, which are copied into the cache; each member's name
    may appear in only one of them."""
    threads: int = number(0, at_least=0, at_most=MAX_THREADS)
    """CPU threads for searches and for networks; 0 means one per core for searches (or NUMBA_NUM_THREADS), and
    PyTorch's default (or OMP_NUM_THREADS) for networks."""

    def use_threads(self) -> None:
        """Use `threads` from now on. Raises InputError for more than four per CPU."""
        most = 4 * (os.cpu_count() or 1)
        if self.threads > most:
            raise InputError(f"--threads {self.threads}: expected 0 to {most}, four per CPU of this machine")
        if self.threads:
            set_worker_threads(self.threads)
            torch.set_num_threads(self.threads)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The runs folders; a URL's local copy holds the runs that are finished there now."""
        return tuple(local_copy(runs, cache_folder() / "stores") for runs in dict.fromkeys(self.runs))

    def find_fold_models(self) -> list[FoldModel]:
        """The finished fold models in all runs folders. Raises InputError for a folder that does not exist."""
        return [fold_model for runs in self.folders for fold_model in find_fold_models(runs)]

    def unfinished_notes(self, members: Collection[str] | None = None) -> list[str]:
        """A note for each unfinished run in the runs folders, or only for those of the given members."""
        runs = (run for folder in self.folders for run in unfinished_runs(folder))
        return [
            f"left out: {run} is not finished" for run in runs if members is None or RunFolder(run).member in members
        ]

    def describe_runs(self) -> str:
        """The runs folders, for messages."""
        return ", ".join(store_url(runs) or str(runs) for runs in self.runs)
