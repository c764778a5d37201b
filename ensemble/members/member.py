"""Members of a blend: the fold models of one (model or name, seed), grouped."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from folds.store.fold_model import FoldModel
from registry import InputError

Networks = Literal["both", "folds", "refits"]
"""The networks of a member that predict dev and test: its fold models, its refit, or both."""


@dataclass(frozen=True)
class Member:
    """One member of a blend: the fold models of one (model or name, seed), sorted by fold, and their refit.

    Out of fold, each utterance has one prediction per member, from the fold model that was not trained on it. On dev
    and test, every network predicts every utterance.
    """

    name: str
    fold_models: tuple[FoldModel, ...]
    refit: FoldModel | None = None
    """The same model and recipe trained on all training utterances; see `ensemble.members.refits`."""

    @property
    def networks(self) -> tuple[FoldModel, ...]:
        """All networks that predict dev and test: its fold models, then its refit."""
        return self.fold_models if self.refit is None else (*self.fold_models, self.refit)

    @property
    def parameters(self) -> int:
        """Total parameters of its networks."""
        return sum(network.parameters for network in self.networks)

    @property
    def stride(self) -> int:
        """Input frames per output frame of its first network."""
        return self.networks[0].stride

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its networks, sorted."""
        return tuple(sorted({tag for network in self.networks for tag in network.tags}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds for which it has a fold model."""
        return tuple(fold_model.fold for fold_model in self.fold_models)

    @property
    def fold_count(self) -> int:
        """The number of folds that the data were split into; the member may have a fold model for only some of them."""
        return self.fold_models[0].folds

    @property
    def fold_assignment(self) -> str:
        """The version of the fold assignment; several, such as "1, 2", if its runs differ."""
        return ", ".join(map(str, sorted({fold_model.fold_assignment for fold_model in self.fold_models})))

    def keep(self, networks: Collection[FoldModel]) -> Member:
        """The same member with only some of its networks."""
        fold_models = tuple(model for model in self.fold_models if model in networks)
        return replace(self, fold_models=fold_models, refit=self.refit if self.refit in networks else None)

    def using(self, networks: Networks) -> Member:
        """The same member with only these networks; one without a refit keeps its fold models."""
        if networks == "both" or self.refit is None:
            return self
        return replace(self, refit=None) if networks == "folds" else replace(self, fold_models=())

    def describe(self) -> str:
        """For example `pblstm (folds 0, 1 of 5; refit)`."""
        parts = [self.describe_folds()] if self.fold_models else []
        return f"{self.name} ({'; '.join(parts + ['refit'] * (self.refit is not None))})"

    def describe_folds(self) -> str:
        """For example `folds 0, 1 of 5`, of a member that has fold models."""
        return f"fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))} of {self.fold_count}"


def _no_member(pattern: str, names: Sequence[str]) -> str:
    """An error message for a pattern that matches none of these members."""
    if "," in pattern:
        return f"separate names by spaces: --members {pattern.replace(',', ' ')}"
    if f"{pattern}.all" in names:
        return f"only its refit {pattern}.all is finished; train a fold model as well (folds.train --fold 0)"
    if not names:
        return "no run is finished"
    return f"no finished member matches; there are: {', '.join(names)}"


def group_by_member(fold_models: Sequence[FoldModel], patterns: Sequence[str] = ("*",)) -> list[Member]:
    """The members whose name matches one of the globs, sorted by name.

    Raises InputError for a pattern that matches none, and for a member whose runs differ in their number of folds or
    are in several stores.
    """
    names = sorted({fold_model.name for fold_model in fold_models})
    if not patterns:
        raise InputError(f"--members: no name is given; there are: {', '.join(names)}")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"--members {pattern}: {_no_member(pattern, names)}")
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    members = []
    for name in chosen:
        models = sorted((model for model in fold_models if model.name == name), key=lambda model: model.fold)
        if len({model.folds for model in models}) > 1:
            description = ", ".join(f"fold {model.fold} of {model.folds}" for model in models)
            raise InputError(
                f"member {name}: its runs differ in their number of folds ({description}): train all with one --folds"
            )
        stores = sorted({str(model.path.parent.parent) for model in models})
        if len(stores) > 1:
            raise InputError(
                f"member {name}: is in {' and in '.join(stores)}: rename one folder, or leave one out of --runs"
            )
        members.append(Member(name, tuple(models)))
    return members


def measurable_on(
    split: str, fold_models: Sequence[FoldModel], patterns: Sequence[str]
) -> tuple[list[FoldModel], list[str]]:
    """The fold models that can be evaluated on a split, and a note for each matching member that is left out.

    Dev cannot evaluate models that were trained on it, nor oof those that hold nothing out. Raises InputError for a
    pattern that matches only such members.
    """
    if split == "dev":
        seen = {model.name for model in fold_models if model.with_dev}
        why, hint = "was trained on dev too, so a distance on dev says nothing about it", "decode it with --split test"
    elif split == "oof":
        seen = {model.name for model in fold_models if model.folds == 1}
        why, hint = "was trained on all utterances, so it has no out-of-fold predictions", "use --split dev"
    else:
        return list(fold_models), []
    names = {model.name for model in fold_models}
    matched = [set(fnmatch.filter(names, pattern)) for pattern in patterns]
    for pattern, members in zip(patterns, matched, strict=True):
        if members and members <= seen:
            raise InputError(f"--members {pattern}: {', '.join(sorted(members))} {why}: {hint}")
    notes = [f"left out: {name} {why}" for name in sorted(seen & set().union(*matched))]
    return [model for model in fold_models if model.name not in seen], notes
