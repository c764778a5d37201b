"""The store: runs/<model>/fold<k>/ with a member's configuration and log-probabilities. Only this file touches it.

Log-probabilities are float16 rows `[sum of T', C]` with int64 offsets `[N+1]` in safetensors, whose header names the
utterances, the alphabet, the blank, the stride and the schema version. Every file appears whole or not at all. It does
not train, decode or combine; and nothing in it is ever unpickled. An attention speller's scores of whole strings are
kept beside the log-probabilities.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.store.checkpoint import load_weights
from folds.store.log_probs import LogProbs, read_log_probs
from models import CTCNetwork
from registry import InputError, atomic_write, create_model

SPLITS = ("oof", "dev", "test")










@dataclass(frozen=True, eq=False)
class Member:
    """One finished (model, fold, seed): what it is and where its predictions lie."""

    model: str
    fold: int
    folds: int
    seed: int
    path: Path
    parameters: int
    tags: tuple[str, ...]
    stride: int
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The weights that predict."""
        return self.path / "checkpoint" / "weights.safetensors"

    @property
    def finished(self) -> bool:
        """Whether all its predictions are there."""
        return _finished(self.path)

    @property
    def spells(self) -> bool:
        """Whether its attention speller can be asked: it has one, and its weights were copied along."""
        return self.config.get("speller", False) and self.weights.exists()

    @property
    def name(self) -> str:
        """Its folder's name, the model's with what `run_name` adds: members of one name are folds of one another."""
        return self.path.parent.name

    def load(self, split: str) -> LogProbs:
        """Log-probabilities of split "oof", "dev" or "test"."""
        return read_log_probs(self.path / f"{split}.safetensors")






def run_name(model: str, seed: int, folds: int = 2) -> str:
    """The folder of a (model, seed) in the store: `gru`, `gru.seed1`; `gru.all` with one fold, nothing held out."""
    return model + (f".seed{seed}" if seed else "") + (".all" if folds == 1 else "")


def run_dir(runs: Path, model: str, fold: int, seed: int = 0, folds: int = 2) -> Path:
    """The folder of a (model, fold, seed) in the store; see `run_name`."""
    return runs / run_name(model, seed, folds) / f"fold{fold}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises InputError for a missing or damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        message = f"{path}: not readable as JSON ({error}): delete this run's folder and train it again"
        raise InputError(message) from None


def find_members(runs: Path) -> list[Member]:
    """The finished members under `runs`, sorted by name and fold. Raises InputError when there is no such folder."""
    return [read_member(path) for path in _run_dirs(runs) if _finished(path)]


def read_member(path: Path) -> Member:
    """The run in the folder `path`, finished or not. Raises InputError for a config.json that lacks something."""
    config = read_json(path / "config.json")
    try:
        return Member(
            model=config["model"],
            fold=config["fold"],
            folds=config["folds"],
            seed=config["seed"],
            path=path,
            parameters=config["parameters"],
            tags=tuple(config["tags"]),
            stride=config["stride"],
            config=config,
        )
    except KeyError as error:
        message = f"{path / 'config.json'}: no {error}: delete this run's folder and train it again"
        raise InputError(message) from None


def unfinished(runs: Path) -> list[Path]:
    """Folders of runs that were begun and are not finished."""
    return [path for path in _run_dirs(runs) if not _finished(path)]


def _run_dirs(runs: Path) -> list[Path]:
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder of runs: train a model first (python -m folds.train), or give --runs")
    # Copies ("fold0.bak") are no runs.
    found = [config.parent for config in runs.glob("*/fold*/config.json") if config.parent.name[4:].isdecimal()]
    return sorted(found, key=lambda path: (path.parent.name, int(path.name.removeprefix("fold"))))


def _finished(path: Path) -> bool:
    return all((path / f"{split}.safetensors").exists() for split in SPLITS)


def model_of(member: Member) -> CTCNetwork:
    """The model that made the member's predictions, on the CPU, ready to predict."""
    model = create_model(member.model, **member.config["model_config"])
    load_weights(member.weights, model)
    return model.eval()
