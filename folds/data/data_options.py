"""Options shared by the commands that read a competition's data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from folds.competition.detect import data_root
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from registry.bounds import Bounded, number


@dataclass(frozen=True)
class FolderOptions(Bounded):
    """The competition's folder."""

    data: Path | None = None
    """The competition's folder; by default the environment variable HW3P2_DATA, else demo/competition."""
    allow_pickle: bool = False
    """Unpickle the object arrays of the older formats (Fall 2018 to Fall 2021). Only for files you trust: a pickle can
    run arbitrary code."""


@dataclass(frozen=True)
class DataOptions(FolderOptions):
    """The competition's data."""

    smooth: float = number(0.0, at_least=0, at_most=1000)
    """Smooth the features over time when they are packed: standard deviation of the Gaussian in frames; the
    Brain-to-Text baseline uses 2. Differently smoothed data count as different data, so pass the same value to every
    command."""

    def open_dataset(self) -> Dataset:
        """The data, checked and packed. Raises InputError for a missing folder or faulty files."""
        root = data_root(self.data)
        dataset = load_dataset(root, allow_pickle=self.allow_pickle, smooth=self.smooth)
        if dataset.root != root:
            print(f"data: {dataset.root}, the only competition in {root}", file=sys.stderr)
        return dataset


@dataclass(frozen=True)
class StoreOptions(DataOptions):
    """The competition's data and the runs folder."""

    runs: Path = Path("runs")
    """The runs folder: trained models, one folder per model and fold."""
