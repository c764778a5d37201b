"""The file beside a submission, `<out>.json`: what it was made of, for `submit` to check against the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.members.eligibility import all_tags, total_parameters
from ensemble.members.member import Member
from folds.data.dataset import Dataset
from folds.store.json_files import write_json


def write_sidecar(
    out: Path,
    dataset: Dataset,
    members: Sequence[Member],
    recipe: Mapping[str, Any],
    options: object,
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write and return the description of the submission `out`, which must exist.

    `recipe` says how the members' networks were combined; `options` are those of the command, and `results` what is
    known about the submission's distance.
    """
    networks = {member.name: [str(network.path) for network in member.networks] for member in members}
    content = {
        "recipe": dict(recipe) | {"members": networks},
        **(results or {}),
        "parameters": total_parameters(members),
        "tags": all_tags(members),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "data": dataset.hash,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    write_json(out.with_name(out.name + ".json"), content)
    return content
