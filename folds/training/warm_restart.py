"""A late restart: a member begins from the weights that the same member of another store predicts with.

The source is needed only until the run has a checkpoint of its own; what must be remembered of it stands in the run's
config.json under "restart".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.json_files import read_json
from folds.store.run_folder import RunFolder
from registry import InputError


@dataclass(frozen=True)
class Source:
    """Weights to begin from, and what a restarted run remembers of them."""

    weights: Path
    facts: dict[str, Any]


def find_source(runs: Path, name: str, fold: int, seed: int, folds: int) -> FoldModel:
    """The finished (model, fold, seed) in the store `runs`. Raises InputError where it is not there as a whole."""
    folder = RunFolder.of(runs, name, fold, seed, folds)
    member = read_fold_model(folder) if folder.begun else None
    if member is None or not (folder.finished and folder.weights.exists()):
        raise InputError(
            f"--restart-from {runs}: {folder.path} is no finished run with its checkpoint/weights.safetensors: train it first"
        )
    return member


def open_source(runs: Path, record: dict[str, Any], held_out: Sequence[str]) -> Source:
    """The source of the run that `record`, its config.json to be, describes.

    Raises InputError where there is none, or it is of other data or another model, or held out other utterances than
    `held_out`: what is out of fold here must not have been fitted there.
    """
    member = find_source(runs, record["model"], record["fold"], record["seed"], record["folds"])
    for key, what in (("data", "data"), ("model_config", "model options")):
        if member.config.get(key) != record[key]:
            raise InputError(f"--restart-from {runs}: {member.path} was trained with other {what}: give the same here")
    if member.load("oof").ids != tuple(held_out):
        raise InputError(f"--restart-from {runs}: {member.path} held out other utterances: train it again")
    minutes = read_json(member.folder.summary).get("cpu_minutes")
    if minutes is None:
        raise InputError(f"{member.path / 'summary.json'}: does not tell cpu_minutes: train this run again")
    facts = {
        "from": str(runs),
        "weights": hashlib.sha256(member.folder.weights.read_bytes()).hexdigest()[:16],
        "cpu_minutes": minutes,
        "select": member.config.get("select", "last"),
    }
    return Source(member.folder.weights, facts)
