"""Runs derived from a finished run without training: the same held-out utterances, predicted in another way.

`folds.adapt`, `folds.delay` and `folds.soup` create them. A command takes `DerivedRunOptions`, finds the source runs,
and writes each derived run with `write_derived_run`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from folds.data.data_options import DataOptions
from folds.data.dataset import Dataset
from folds.data.renormalized import dataset_as_read
from folds.store.fold_model import AGAIN, FoldModel, fold_model_of, read_finished
from folds.store.lease import hold
from folds.store.run_folder import SPLITS, RunFolder
from folds.store.schemas import SummaryFile, TrainedConfig
from folds.training.cost import Cost
from folds.training.device import pick_device
from folds.training.distributed import ProcessGroup
from folds.training.options import CPU_FRAMES
from folds.training.predict import write_predictions
from folds.training.run_config import weights_description
from models import CTCModel, write_weights
from registry import InputError
from registry.json_files import read_json, write_json


@dataclass(frozen=True)
class DerivedRunOptions(DataOptions):
    """Source runs, and where to compute."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs: runs/<model>/fold<k>, or runs/*/fold* for all."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise InputError("no run is given: pass the folder of a finished run, such as runs/<model>/fold<k>")

    def pick_device(self) -> torch.device:
        """The device of `--device`. Raises InputError if it cannot be used."""
        return pick_device(self.device, ProcessGroup())


def run_at(path: Path) -> RunFolder:
    """The run in a folder given by the user; resolved, as a relative path or a link may lack the member's name."""
    return RunFolder(Path(os.path.realpath(path)))


def finished_sources(runs: Iterable[RunFolder], command: str) -> list[FoldModel]:
    """The source runs; prints a line for each run that is not finished.

    Raises InputError, naming `command`, for a folder without a run or without weights, and if no folder is given.
    """
    named = list(runs)
    if not named:
        raise InputError(f"{command}: all of these runs were derived from others: pass the original runs")
    for run in named:
        if run.begun and not run.finished:
            print(f"left out: {run.path} is not finished")
    return [read_finished(run, command) for run in named if run.finished or not run.begun]


def check_data(source: FoldModel, dataset: Dataset) -> TrainedConfig:
    """The contents of the run's config.json. Raises InputError if it was trained on other data than `dataset`."""
    trained = source.check_trained()
    # Runs of earlier versions do not record the hash of their features.
    if dataset.hash != trained.data.hash or trained.data.features not in (None, dataset.features_hash):
        raise InputError(f"{source.path}: was trained on data other than {dataset.root}: pass its data with --data")
    return trained


def held_out_by(source: FoldModel, dataset: Dataset) -> np.ndarray:
    """Positions `(N,)` int64 of the utterances that the run held out, with the fold assignment of its version."""
    row_of = dataset.train.row_of
    return np.array([row_of[utterance] for utterance in source.load("oof").ids], np.int64)


def write_derived_run(
    source: FoldModel,
    dataset: Dataset,
    network: CTCModel,
    folder: RunFolder,
    changes: dict[str, Any],
    device: torch.device,
) -> None:
    """Write config.json, weights and predictions of `network` into `folder`; the recorded cost is that of `source`.

    `changes` are added to the source's config.json or replace its entries. Existing predictions in the folder are
    deleted first, so that the run counts as finished only when all predictions are by `network`. Raises InputError if
    `dataset` is not the source's data.
    """
    trained, summary = check_data(source, dataset), read_json(source.folder.summary, SummaryFile, AGAIN)
    derived = fold_model_of(folder, source.recorded | changes)
    held_out = held_out_by(source, dataset)
    transform = derived.transform
    with hold(folder.path, folder.title) as lease:
        for split in SPLITS:
            folder.predictions(split).unlink(missing_ok=True)
        write_json(folder.config, derived.recorded)
        write_weights(folder.weights, network, weights_description(derived, dataset.alphabet))
        write_predictions(
            network.to(device),
            dataset_as_read(dataset, transform),
            held_out,
            folder,
            frames=trained.options.recipe.batch_frames or CPU_FRAMES,
            device=device,
            cost=Cost.from_summary(summary),
            with_dev=source.with_dev,
            check=lease.check,
        )
