"""The file next to a submission, `<out>.json`: how it was made, which `submit` checks against the rules."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ensemble.members.eligibility import all_tags, total_parameters
from ensemble.members.member import Member
from folds.competition.base import Rules
from folds.competition.bootstrap import Interval
from folds.competition.submission import write_submission
from folds.data.dataset import Dataset
from folds.store.schemas import Measure
from registry.json_files import read_json, write_json

WORDS = "words"
"""The method recorded for a blend in words."""
AGAIN = "blend again with python -m ensemble.blend"


class Recipe(Struct, frozen=True):
    """How the members' networks were combined."""

    method: str
    weights: dict[str, Measure | None] = msgspec.field(default_factory=dict)
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    members: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """The run folders of each member's networks."""


class Difference(Struct, frozen=True):
    """Distance on dev minus that of the best member, with its interval."""

    member: str
    mean: float
    low: float
    high: float

    @staticmethod
    def of(member: str, interval: Interval) -> Difference:
        """The difference from this member, with its interval."""
        return Difference(member, interval.mean, interval.low, interval.high)


class SearchSettings(Struct, frozen=True):
    """How one member's search used the language model; see `ensemble.hypotheses.fusion`."""

    lm_weight: float
    length_bonus: float
    prior_weight: float
    label_bonus: tuple[float, ...]
    """The bonus that each class adds to a score, at a prior weight of 1."""


class Sidecar(Struct, frozen=True):
    """The fields that are read from the file; without `dev_minus_best_member`, there are no results."""

    recipe: Recipe
    parameters: int
    tags: tuple[str, ...]
    oof: float = math.nan
    nested: float = math.nan
    dev: float = math.nan
    dev_minus_best_member: Difference | None = None
    sha256: str = ""
    """The hash of the submission."""
    data: str = ""
    """The hash of the data."""
    fusion: dict[str, SearchSettings] = msgspec.field(default_factory=dict)
    """The members' search settings; files of earlier versions have none."""
    weights: dict[str, str | None] = msgspec.field(default_factory=dict)
    """The hash of the network weights in each run folder; files of earlier versions have none."""
    rules: Rules = Rules()
    """The rules under which it was blended."""
    options: dict[str, str] = msgspec.field(default_factory=dict)
    """The options of the command, as strings."""
    metric: str = ""
    """The metric of the figures, if not mean edit distance."""


def sidecar_path(submission: Path) -> Path:
    """The file next to a submission that describes it."""
    return Path(f"{submission}.json")


def read_sidecar(submission: Path) -> Sidecar:
    """The description of a submission. Raises InputError if it is missing or damaged."""
    return read_json(sidecar_path(submission), Sidecar, "write it again with python -m ensemble.blend")


def write_sidecar(
    out: Path,
    dataset: Dataset,
    members: Sequence[Member],
    recipe: Mapping[str, Any],
    options: object,
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write and return the description of the submission `out`, which must exist.

    `recipe` says how the members' networks were combined; `options` are the command's options, and `results` holds
    estimates of the submission's distance.
    """
    networks = {member.name: [str(network.path) for network in member.networks] for member in members}
    content = {
        "recipe": dict(recipe) | {"members": networks},
        **(results or {}),
        "weights": {str(network.path): network.weights_hash for member in members for network in member.networks},
        "parameters": total_parameters(members),
        "tags": all_tags(members),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "data": dataset.hash,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    write_json(sidecar_path(out), content)
    return content


def write_with_sidecar(
    out: Path,
    texts: Sequence[str],
    dataset: Dataset,
    member: Member,
    recipe: Mapping[str, Any],
    options: object,
    results: Mapping[str, Any] | None = None,
) -> None:
    """Write the submission of one member, `texts` in row order, and its description; print both paths."""
    write_submission(out, dataset.header, dataset.sample_ids, texts)
    write_sidecar(out, dataset, [member], recipe, options, results)
    print(f"wrote {out} ({len(texts)} rows) and {sidecar_path(out)}")
