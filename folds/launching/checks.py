"""What is checked before a launch starts anything: of what each run would be refused for, when its turn comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from folds.data.dataset import Dataset
from folds.launching.destination import Destination
from folds.launching.tasks import Task
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.lease import holder_of
from folds.store.run_folder import RunFolder
from folds.training.run_config import check_same_settings, started_run
from folds.training.sources import check_sources


def check_tasks(tasks: Sequence[Task], dataset: Dataset, destination: Destination) -> None:
    """Raise InputError for a run that was trained on other data or with other settings, finished or not.

    Also for an unfinished one whose guide is missing, or the weights that it is to start from.
    """
    for task in tasks:
        options = task.parsed.options
        started = _begun_run(task.folder)
        if started is not None:
            sizes = {"features": dataset.features, "classes": dataset.alphabet.classes}
            config = dataclasses.replace(task.parsed.config, **sizes)
            check_same_settings(started, options, dataset, task.model, config)
        if not destination.finished(task.folder):
            check_sources(options, task.model, task.fold)


def _begun_run(folder: RunFolder) -> FoldModel | None:
    """The run in a folder, if it has results, or a process that trains it; None if another may begin there."""
    started = started_run(folder)
    return read_fold_model(folder) if started is None and folder.begun and holder_of(folder.path) else started
