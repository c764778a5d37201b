"""`python -m folds.launch`: train many fold models at once, on this machine, on a Slurm cluster or on Ray.

Every (model, fold, seed) is one run, trained as `folds.train` trains it. Finished runs are skipped, unfinished ones
are resumed if they have the same settings, and a run that fails does not stop the others.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import sys
from typing import Any

import tyro

from folds.data.dataset import Dataset
from folds.launching.checks import check_limits, check_tasks
from folds.launching.destination import Destination
from folds.launching.estimate import Estimate, describe_total, estimate_hours, print_estimates
from folds.launching.executor import (
    LaunchSettings,
    all_options,
    create_executor,
    is_on_this_machine,
    with_executor_options,
)
from folds.launching.executors.local import divide_here
from folds.launching.launcher import Interrupted, Launcher
from folds.launching.options import LaunchOptions
from folds.launching.plan import Plan
from folds.launching.status_table import print_failures, print_status, summary
from folds.launching.tasks import Task, make_tasks
from registry import InputError, check_writable, command
from registry.command_line import UnknownOptions, parse_options
from registry.redaction import redact

PROG = "python -m folds.launch"


def parse(arguments: list[str]) -> tuple[LaunchOptions, Any, list[str]]:
    """(launch options, the executor's options, the arguments of folds.train)."""
    schema: Any = with_executor_options(LaunchOptions, LaunchOptions.on, arguments)
    parsed, more = parse_options(schema, PROG, arguments, config=(tyro.conf.OmitArgPrefixes,), return_unknown_args=True)
    return parsed.command, parsed.executor, more


def _named(error: UnknownOptions) -> InputError:
    """The error for options unknown to folds.train: they may be an executor's, or misspelt options of the launch."""
    fields = {name: {field.name for field in dataclasses.fields(options)} for name, options in all_options().items()}
    known = {field.name for field in dataclasses.fields(LaunchOptions)}.union(*fields.values())
    for name in error.names:
        field = name.removeprefix("--").replace("-", "_")
        if owners := [executor for executor, names in fields.items() if field in names]:
            return InputError(f"{name}: an option of --on {' and --on '.join(owners)}; see {PROG} --help")
        similar = difflib.get_close_matches(field, sorted(known), n=1)
        if similar and "did you mean" not in str(error):
            return InputError(f"{name}: did you mean --{similar[0].replace('_', '-')}? see {PROG} --help")
    return error


def main() -> int:
    """Launch; returns the exit status: 0 if all runs are finished, and 1 if some have failed."""
    options, executor_options, more = parse(sys.argv[1:])
    plan = options.read_plan()
    destination = Destination(options.runs)
    device = executor_options.device
    training_options = [*(() if device == "auto" else ("--device", device)), *more]
    try:
        tasks = make_tasks(plan, options, destination, training_options) if plan is not None else []
    except UnknownOptions as error:
        raise _named(error) from None
    if options.status:
        if plan is None and more:
            raise InputError(f"--status: unknown options {' '.join(more)}; see {PROG} --help")
        folders = [task.folder for task in tasks] if plan is not None else destination.known()
        print_status([destination.status(folder) for folder in folders])
        return 0
    assert plan is not None
    dataset = options.open_dataset()
    check_limits(plan, tasks, dataset)
    check_tasks(tasks, dataset, destination)
    if options.dry_run:
        estimates, total = estimate(tasks, options, dataset, destination)
        print_estimates(estimates)
        print(total)
        return 0
    return launch(plan, tasks, options, executor_options, destination, dataset)


def estimate(
    tasks: list[Task], options: LaunchOptions, dataset: Dataset, destination: Destination
) -> tuple[list[Estimate], str]:
    """Estimates for each run and in total. On a cluster only runs show their speed: its machines are not like this one.

    Nor are steps timed on a GPU before a launch: this process would keep its memory, which the runs need.
    """
    here = is_on_this_machine(options.on)
    jobs = options.jobs or (len(divide_here(tasks, 0, len(tasks))) if here else len(tasks))
    probe = here and (options.dry_run or all(task.device == "cpu" for task in tasks))
    estimates = estimate_hours(tasks, dataset, destination, probe)
    return estimates, describe_total(estimates, jobs)


def launch(
    plan: Plan,
    tasks: list[Task],
    options: LaunchOptions,
    executor_options: Any,
    destination: Destination,
    dataset: Dataset,
) -> int:
    """Train the tasks; returns the exit status."""
    if not all(destination.finished(task.folder) for task in tasks):
        left = sum(not destination.finished(task.folder) for task in tasks)
        settings = LaunchSettings(destination.folder, options.jobs, options.retries, left)
        executor = create_executor(options.on, settings, executor_options)
        check_writable(destination.folder / "launch")
        for task in tasks:
            if task.folder.path.is_dir():
                check_writable(task.folder.log)
        print(estimate(tasks, options, dataset, destination)[1], flush=True)
        launcher = Launcher(executor, options.retries, destination)
        try:
            launcher.run(tasks)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            return 128 + interrupted.number
        destination.refresh()
        statuses = [launcher.status(task) for task in tasks]
    else:
        statuses = [destination.status(task.folder) for task in tasks]
    print_failures(statuses)
    print(summary(statuses))
    if any(status.state != "finished" for status in statuses):
        return 1
    data = [] if options.data is None else ["--data", str(options.data)]
    arguments = shlex.join(["--runs", destination.url or str(options.runs), *data, *options.reading_options])
    print(redact(f"next: python -m ensemble.blend {arguments}{plan.blend_options}"))
    return 0


if __name__ == "__main__":
    command(main)
