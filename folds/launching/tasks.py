"""Tasks: the individual runs of a plan. Each is one command line of `folds.train`, and one folder under `--runs`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections import Counter

from folds.competition.detect import data_root
from folds.launching.destination import Destination
from folds.launching.executor_task import shared_device
from folds.launching.options import LaunchOptions
from folds.launching.plan import MemberPlan, Plan
from folds.store.run_folder import RunFolder
from folds.training.command_line import ModelOptions, parse
from folds.training.config_file import arguments_of
from registry import InputError

OWN = {
    "--model": "--models",
    "--fold": "--folds",
    "--seed": "--seeds",
    "--resume": "not needed: started runs are always resumed",
}
"""Options of folds.train that are replaced by others here."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One (model, fold, seed)."""

    model: str
    fold: int
    folder: RunFolder
    arguments: tuple[str, ...]
    """The arguments of folds.train."""
    parsed: ModelOptions = dataclasses.field(repr=False, compare=False)
    url: str = ""
    """Where the finished run is uploaded to; empty if it stays in its folder."""
    working_folder: str = dataclasses.field(default_factory=os.getcwd, compare=False)

    @property
    def title(self) -> str:
        """The run's name in messages."""
        return self.folder.title

    @property
    def device(self) -> str:
        return shared_device(self.parsed.options.device)

    @property
    def fingerprint(self) -> str:
        """The hash of the arguments."""
        return hashlib.sha256("\0".join(self.arguments).encode()).hexdigest()[:16]

    @property
    def needs_no_process(self) -> bool:
        """Whether it is already trained and need not be uploaded."""
        return not self.url and self.folder.finished

    def command(self, wait_s: float, threads: int | None) -> list[str]:
        """The command line of `folds.launching.worker`.

        The number of threads is fixed, so that a killed run ends with the same metrics. If CPU time limits the run, a
        second thread would shorten it, so the default of one is kept.
        """
        recipe = self.parsed.options.recipe
        by_cpu_time = recipe.minutes is not None and recipe.clock == "cpu"
        fixed = [] if threads is None or by_cpu_time else ["--threads", str(threads)]
        # The task's own arguments come last and take precedence.
        return [sys.executable, "-m", "folds.launching.worker", str(wait_s), self.url, *fixed, *self.arguments]


def make_tasks(plan: Plan, options: LaunchOptions, destination: Destination, more: list[str]) -> list[Task]:
    """The runs of a plan, in its order; `more` are further arguments of folds.train.

    Raises InputError for what folds.train would reject, and for a run that is in the plan twice.
    """
    for argument in more:
        if (name := argument.partition("=")[0]) in OWN:
            raise InputError(f"{name}: an option of folds.train; here it is {OWN[name]}")
    common = ["--data", os.path.realpath(data_root(options.data)), "--runs", str(destination.folder)]
    common += options.reading_options
    tasks = []
    for member in plan.members:
        options_of_member = {**plan.options, **member.options}
        for name in options_of_member:
            if (option := f"--{name.replace('_', '-')}") in OWN or option == "--name":
                raise InputError(
                    f"the plan's options of {member.name or member.model}: {name} is not allowed there: a member's "
                    "model, name, folds and seeds are given beside its options, and started runs are always resumed"
                )
        arguments = [*common, *arguments_of(options_of_member), *more]
        arguments += ["--name", member.name] if member.name else []
        for folds, numbers in _splits(plan, member):
            tasks += _tasks_of(member, [*arguments, "--folds", str(folds)], numbers)
    counts = Counter(task.folder.path for task in tasks)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise InputError(f"{twice[0]}: the plan has this run twice: give one member another name, or other seeds")
    if not tasks:
        raise InputError("nothing to train: there are neither folds nor refits")
    return [dataclasses.replace(task, url=destination.url) for task in tasks]


def _splits(plan: Plan, member: MemberPlan) -> list[tuple[int, list[int]]]:
    """A member's (number of folds, folds to train): for the fold models, then for the refit."""
    if member.folds == "all":
        folds = list(range(plan.fold_count))
    else:
        folds = [] if member.folds == "none" else list(dict.fromkeys(member.folds))
    return ([(plan.fold_count, folds)] if folds else []) + ([(1, [0])] if member.refit else [])


def _tasks_of(member: MemberPlan, arguments: list[str], folds: list[int]) -> list[Task]:
    """The tasks of a member in these folds. The options are parsed once: seeds and folds do not change them."""
    chosen = ["--model", member.model, "--fold", ",".join(map(str, folds))]
    (parsed,) = parse([*chosen, *arguments])
    parsed.options.fold_list()
    shared_device(parsed.options.device)
    tasks = []
    for seed in dict.fromkeys(member.seeds):
        options = dataclasses.replace(parsed.options, seed=seed)
        for fold in folds:
            own = ["--model", member.model, "--fold", str(fold), "--seed", str(seed)]
            one = dataclasses.replace(parsed, options=dataclasses.replace(options, fold=str(fold)))
            folder = options.run_folder(member.model, fold)
            tasks.append(Task(member.model, fold, folder, (*own, *arguments), one))
    return tasks
