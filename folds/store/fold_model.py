"""Fold models found in the runs folder: their descriptions and predictions.

A fold model is one trained (model, fold, seed). The fold models of one (model, seed), or of one `--name` and seed,
together form a member of a blend.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folds.store.log_probs import LogProbs, read_log_probs
from folds.store.run_folder import RunFolder, run_folders
from folds.store.schemas import ConfigFile, TrainedConfig
from models import CTCModel, GroupFacts, build_network
from models.features import FeatureTransform
from models.weights_file import load_weights
from registry import InputError, describe, list_models
from registry.files import exists, listed
from registry.json_files import convert, read_json

AGAIN = "delete this run's folder and train it again"

TRANSDUCTIVE = "transductive"
"""The tag of a model that was trained on features of the test set."""
TRAINING_TAGS = ("external-data", "pretrained", TRANSDUCTIVE)
"""Tags that say what a model has learnt from, not how it is built: models trained from it inherit them."""


def training_tags(tags: Iterable[str]) -> list[str]:
    """Those of `tags` that say what a model has learnt from."""
    return sorted(set(tags) & set(TRAINING_TAGS))


def check_tags(option: str, tags: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise InputError, beginning with `option`, for a tag that no model can have: forbidding it has no effect.

    `others` are tags that exist besides `TRAINING_TAGS` and those of registered models.
    """
    known = {*TRAINING_TAGS, *others, *(tag for name in list_models() for tag in describe(name).tags)}
    for tag in tags:
        if tag not in known:
            similar = difflib.get_close_matches(tag, sorted(known), n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(sorted(known))}"
            raise InputError(f"{option} {tag}: no model has this tag; {hint}")


@dataclass(frozen=True, eq=False)
class FoldModel:
    """One (model, fold, seed), as described by its config.json."""

    path: Path
    """Its run's folder."""
    config: ConfigFile
    """Its config.json, with defaults for what an earlier version did not record."""
    recorded: dict[str, Any]
    """Its whole config.json as it is, for runs derived from it and comparisons entry by entry."""

    @property
    def model(self) -> str:
        """The registered name of its model."""
        return self.config.model

    @property
    def fold(self) -> int:
        """The fold held out."""
        return self.config.fold

    @property
    def folds(self) -> int:
        """Number of folds; 1 for a run that holds nothing out."""
        return self.config.folds

    @property
    def seed(self) -> int:
        """Its training seed."""
        return self.config.seed

    @property
    def parameters(self) -> int:
        """Its number of parameters."""
        return self.config.parameters

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags for how it is built and what it has learnt from; see `TRAINING_TAGS`."""
        return self.config.tags

    @property
    def stride(self) -> int:
        """Input frames per output frame."""
        return self.config.stride

    @property
    def folder(self) -> RunFolder:
        """The folder of its run, with the names of its files."""
        return RunFolder(self.path)

    @property
    def name(self) -> str:
        """The name of its member, shared by the member's fold models."""
        return self.folder.member

    @property
    def fold_assignment(self) -> int:
        """The version of the fold assignment; runs that do not record it have version 1."""
        return self.config.fold_assignment

    @property
    def with_dev(self) -> bool:
        """Whether it was trained on the dev utterances too."""
        return self.config.with_dev

    @property
    def is_refit(self) -> bool:
        """Whether it was trained on all training utterances, and on no others: nothing is held out."""
        return self.folds == 1 and not self.with_dev

    @property
    def delay(self) -> int:
        """By how many frames its features are delayed; see `folds.delay`."""
        return self.transform.delay

    @functools.cached_property
    def weights_hash(self) -> str | None:
        """Identifies its network: the hash of its weights, or of the undelayed run's; None without weights."""
        if self.config.delay is not None:
            return self.config.delay.of
        return self.folder.weights_hash if exists(self.folder.weights) else None

    @property
    def trained_weights_hash(self) -> str | None:
        """The hash of the weights as trained, before any adaptation to speakers; None without weights."""
        if self.config.adaptation is not None:
            return self.config.adaptation.of
        return self.weights_hash

    @property
    def has_attention_scores(self) -> bool:
        """Whether it can score hypotheses by attention: it has an attention decoder and its weights exist."""
        return self.config.speller and exists(self.folder.weights)

    @property
    def transform(self) -> FeatureTransform:
        """Preprocessing of raw features before its network reads them. Raises InputError for invalid settings."""
        options, delay = self.config.options, self.config.delay
        try:
            return FeatureTransform(options.recipe.normalise, options.smooth, 0 if delay is None else delay.frames)
        except ValueError as error:
            raise InputError(f"{self.folder.config}: {error}: {AGAIN}") from None

    def check_trained(self) -> TrainedConfig:
        """The entries of config.json that a continued run or its network needs. Raises InputError if any is missing."""
        return convert(self.recorded, TrainedConfig, str(self.folder.config), AGAIN)

    def load(self, split: str) -> LogProbs:
        """Log-probabilities of split "oof", "dev" or "test"."""
        return read_log_probs(self.folder.predictions(split))


def find_fold_models(runs: Path | str) -> list[FoldModel]:
    """The finished fold models under `runs`, by member and fold. Raises InputError if there is no such folder."""
    return [read_fold_model(folder) for folder in run_folders(Path(runs)) if folder.finished]


def read_fold_model(folder: RunFolder) -> FoldModel:
    """The fold model of a run, finished or not. Raises InputError for a damaged config.json."""
    return fold_model_of(folder, read_json(folder.config, dict[str, Any], AGAIN))


def fold_model_of(folder: RunFolder, recorded: dict[str, Any]) -> FoldModel:
    """The fold model whose config.json holds, or will hold, `recorded`. Raises InputError for invalid entries."""
    return FoldModel(folder.path, convert(recorded, ConfigFile, str(folder.config), AGAIN), recorded)


def read_finished(folder: RunFolder, option: str) -> FoldModel:
    """The fold model of a finished run with weights. Raises InputError, naming `option`, for any other folder."""
    if not (folder.begun and folder.finished and exists(folder.weights)):
        if inside := [path for path in listed(folder.path, "fold*") if RunFolder(path).begun]:
            raise InputError(f"{option}: {folder.path} holds a member's runs: pass the folder of one, {inside[0]}")
        weights = folder.weights.relative_to(folder.path)
        raise InputError(f"{option}: {folder.path} is not a finished run with {weights}: train it first")
    return read_fold_model(folder)


def unfinished_runs(runs: Path) -> list[Path]:
    """Folders of runs that were started but are not finished."""
    return [folder.path for folder in run_folders(runs) if not folder.finished]


def load_model(fold_model: FoldModel) -> CTCModel:
    """The network that made the fold model's predictions, on the CPU, in evaluation mode."""
    network = new_network(fold_model)
    load_weights(fold_model.folder.weights, network)
    return network.eval()


def new_network(fold_model: FoldModel) -> CTCModel:
    """The fold model's network with initial weights. Raises InputError for a damaged config.json."""
    trained, layer = fold_model.check_trained(), fold_model.config.group_layer
    facts = None
    if layer is not None:
        facts = convert(layer, GroupFacts, str(fold_model.folder.config), AGAIN)
    return build_network(fold_model.model, trained.model_config, facts)
