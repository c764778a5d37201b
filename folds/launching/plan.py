"""Plans: which members to train, in a YAML file or from the command line.

A plan included in the package is selected by name, `--plan course-20M`; its file is folds/plans/course-20M.yaml.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from folds.store.fold_model import check_tags
from registry import InputError
from registry.errors import describe_os_error
from registry.json_files import convert
from registry.models import parse_count

SUFFIX = ".yaml"
Option = bool | int | float | str | list[int | float | str]


class MemberPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model or recipe, its folds and seeds."""

    model: str
    name: str = ""
    """The member's name, if it differs from the model's."""
    folds: Literal["all", "none"] | tuple[int, ...] = "all"
    """The folds to train."""
    refit: bool = False
    """Whether to train the model on all training utterances as well (`folds.train --folds 1`)."""
    seeds: tuple[int, ...] = (0,)
    options: dict[str, Option] = {}
    """Options of folds.train and of the model, without dashes in front: `batch-frames: 4000`, `prior: false`."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one launch trains."""

    members: tuple[MemberPlan, ...]
    about: str = ""
    fold_count: Annotated[int, Meta(ge=2, le=1000)] = 5
    """The number of speaker-disjoint folds (`folds.train --folds`)."""
    max_params: str | int | None = None
    """The limit on the parameters of a blend of these members, such as `20M`; None for no limit."""
    forbid: tuple[str, ...] = ()
    """Tags that no model of the blend may have."""
    options: dict[str, Option] = {}
    """Options of all members; a member's own take precedence."""

    @property
    def parameter_limit(self) -> int | None:
        """`max_params` as a number. Raises InputError if it is none."""
        return None if self.max_params is None else parse_count(str(self.max_params))

    @property
    def blend_options(self) -> str:
        """The options of `ensemble.blend` that follow from the limits."""
        limit = "" if self.max_params is None else f" --max-params {self.max_params}"
        return limit + (f" --forbid {' '.join(self.forbid)}" if self.forbid else "")


def plan_names() -> list[str]:
    """The names of the plans included in the package."""
    files = importlib.resources.files("folds.plans").iterdir()
    return sorted(file.name.removesuffix(SUFFIX) for file in files if file.name.endswith(SUFFIX))


def read_plan(name: str) -> Plan:
    """The plan with this name or in this file. Raises InputError for an unknown name or an invalid file."""
    if name in plan_names():
        text = importlib.resources.files("folds.plans").joinpath(name + SUFFIX).read_text(encoding="utf-8")
    else:
        text = _read_file(name)
    try:
        content = msgspec.yaml.decode(text)
    except msgspec.DecodeError as error:
        raise InputError(f"--plan {name}: not readable as YAML ({' '.join(str(error).split())})") from None
    plan = convert(content, Plan, f"--plan {name}", "folds/plans/*.yaml are examples")
    if not plan.members:
        raise InputError(f"--plan {name}: no members")
    try:
        _ = plan.parameter_limit
    except InputError as error:
        raise InputError(f"--plan {name}: max_params: {str(error).removeprefix('--max-params ')}") from None
    check_tags(f"--plan {name}: forbid:", plan.forbid)
    return plan


def _read_file(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"--plan {name}: no such file, and no plan of that name: {', '.join(plan_names())}") from None
    except UnicodeDecodeError:
        raise InputError(f"--plan {name}: not a text file; expected a plan in YAML") from None
    except OSError as error:
        raise InputError(f"--plan {describe_os_error(error, name)}") from None
