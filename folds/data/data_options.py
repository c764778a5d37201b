"""The options that every command which reads a competition shares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from folds.competition.detect import data_root
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Where the competition is."""

    data: Path | None = None
    """The competition's folder; by default the environment variable HW3P2_DATA, else the demo's folder."""
    allow_pickle: bool = False
    """Unpickle the object arrays of the F18 to F21 formats. Only for files you trust: a pickle can run any code."""

    def open_dataset(self) -> Dataset:
        """The data, packed and checked. Raises InputError for a missing folder or faulty files."""
        return load_dataset(data_root(self.data), allow_pickle=self.allow_pickle)


@dataclasses.dataclass(frozen=True)
class StoreOptions(DataOptions):
    """Where the competition is, and where the runs are."""

    runs: Path = Path("runs")
    """The folder of trained models."""
