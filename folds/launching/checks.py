"""Checks before a launch starts, so that faults are reported at once, not when the turn of a run comes."""

from __future__ import annotations

from collections.abc import Sequence

from folds.data.dataset import Dataset
from folds.launching.destination import Destination
from folds.launching.plan import Plan
from folds.launching.tasks import Task
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.lease import holder_of
from folds.store.run_folder import RunFolder
from folds.training.resumption import check_folds, check_same_settings, started_run
from folds.training.run_config import count_parameters
from folds.training.sources import check_sources
from models import create_model
from registry import InputError, describe


def check_tasks(tasks: Sequence[Task], dataset: Dataset, destination: Destination) -> None:
    """Raise InputError for a run that was trained on other data or with other settings, finished or not.

    Also for an unfinished one whose folds differ from those of the member's other runs, or whose guide, teacher or
    initial weights are missing.
    """
    uploaded = destination.uploaded_runs({task.folder.member for task in tasks})
    for task in tasks:
        options = task.parsed.options
        started = _begun_run(task.folder)
        if destination.finished(task.folder):
            started = next((run for run in uploaded if run.folder.name == task.folder.name), started)
        if started is not None:
            check_same_settings(started, options, dataset, task.model, task.parsed.config_for(dataset))
        if not destination.finished(task.folder):
            check_folds(task.folder, options.folds, options.fold_by, uploaded)
            check_sources(options, task.model, task.fold)


def check_limits(plan: Plan, tasks: Sequence[Task], dataset: Dataset) -> None:
    """Raise InputError for a run that the plan's own limits would exclude from every blend."""
    limit, checked = plan.parameter_limit, set[str]()
    for task in tasks:
        config = task.parsed.config_for(dataset)
        if (key := f"{task.model} {config}") in checked:
            continue  # another fold or seed
        checked.add(key)
        if plan.forbid and (forbidden := sorted({*describe(task.model).tags} & {*plan.forbid})):
            raise InputError(
                f"the plan's {task.folder.member}: {task.model} has the tag {forbidden[0]}, which the plan forbids: "
                "leave out one of the two"
            )
        if limit is not None and (parameters := count_parameters(create_model(task.model, config))) > limit:
            raise InputError(
                f"the plan's {task.folder.member}: {parameters:,} parameters, and the plan allows {limit:,} in all: "
                "make it smaller, or raise max_params"
            )


def _begun_run(folder: RunFolder) -> FoldModel | None:
    """The run in a folder, if it has results or is being trained; None if another may start there."""
    started = started_run(folder)
    return read_fold_model(folder) if started is None and folder.begun and holder_of(folder.path) else started
