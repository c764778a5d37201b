"""The options of `folds.launch`; the docstrings here are their help texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from folds.data.data_options import StoreOptions
from folds.launching.plan import MemberPlan, Plan, read_plan
from registry import InputError
from registry.bounds import MAX_SEED, number


@dataclasses.dataclass(frozen=True)
class LaunchOptions(StoreOptions):
    """Train many fold models at once. Finished runs are skipped, unfinished ones resumed.

    All other options are those of folds.train and of the models; see python -m folds.train --help.
    """

    runs: Path = Path("runs")
    """The runs folder, or a URL such as s3://bucket/runs, to which each finished run is uploaded."""
    models: str = ""
    """Models to train, comma-separated."""
    plan: str = ""
    """Instead of --models: a plan by name (course-20M, open, cpu), or a plan's YAML file."""
    folds: str | None = None
    """The folds to train: numbers (0,2), all, or none. By default all, or what the plan says."""
    fold_count: int | None = number(None, at_least=2, at_most=1000)
    """Number of speaker-disjoint folds. By default 5, or what the plan says."""
    refits: bool = False
    """Also train each model on all training utterances (folds.train --folds 1)."""
    seeds: str | None = None
    """Seeds, comma-separated. By default 0, or what the plan says."""
    on: str = "local"
    """Where to train: local, slurm, ray, or a plug-in's executor; add --help to list its options."""
    jobs: int = number(0, at_least=0, at_most=10_000)
    """Maximum number of runs at the same time. 0 means one per GPU or core on this machine, and no limit on Slurm and
    Ray. On Slurm it applies to runs that are submitted together; retries come on top."""
    retries: int = number(3, at_least=1, at_most=1000)
    """Maximum number of attempts at each run."""
    dry_run: bool = False
    """Show the runs and an estimate of their hours, but start nothing."""
    status: bool = False
    """Show the state of the runs (of all in the runs folder if no models are given), but start nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.models and self.plan:
            raise InputError("--models with --plan: a plan names its models; pass one of the two")
        if not (self.models or self.plan or self.status):
            raise InputError("nothing to train: pass --models gru,lstm or --plan course-20M")

    @property
    def reading_options(self) -> list[str]:
        """Arguments with which other commands read the data in the same way."""
        smoothed = ["--smooth", str(self.smooth)] if self.smooth else []
        return [*(["--allow-pickle"] if self.allow_pickle else []), *smoothed]

    def read_plan(self) -> Plan | None:
        """The plan, or one made from the models; None if neither is given. Raises InputError for a faulty one."""
        if self.plan:
            plan = read_plan(self.plan)
        elif self.models:
            plan = Plan(members=tuple(MemberPlan(model=name) for name in self.models.split(",")))
        else:
            return None
        changes: dict[str, Any] = {}
        if self.folds is not None:
            changes["folds"] = self.folds if self.folds in ("all", "none") else _numbers("folds", self.folds)
        if self.seeds is not None:
            changes["seeds"] = _numbers("seeds", self.seeds)
        if self.refits:
            changes["refit"] = True
        members = tuple(msgspec.structs.replace(member, **changes) for member in plan.members)
        return msgspec.structs.replace(plan, members=members, fold_count=self.fold_count or plan.fold_count)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of a comma-separated list. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) <= MAX_SEED for part in parts):
        others = ", all or none" if option == "folds" else ""
        raise InputError(f"--{option} {text}: expected numbers separated by commas{others}")
    return tuple(int(part) for part in parts)
