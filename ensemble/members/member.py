"""Members of a blend: the fold models of one (model, seed), grouped."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from folds.store.fold_model import FoldModel
from registry import InputError


@dataclass(frozen=True)
class Member:
    """One member of a blend: the fold models of one (model, seed), sorted by fold.

    Out of fold, each utterance has one prediction per member, by the fold model that was not trained on it. On dev and
    test every fold model predicts every utterance.
    """

    name: str
    fold_models: tuple[FoldModel, ...]

    @property
    def parameters(self) -> int:
        """Parameters of all its fold models together: each is a network of its own."""
        return sum(fold_model.parameters for fold_model in self.fold_models)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its fold models, sorted."""
        return tuple(sorted({tag for fold_model in self.fold_models for tag in fold_model.tags}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds for which it has a fold model."""
        return tuple(fold_model.fold for fold_model in self.fold_models)

    @property
    def fold_count(self) -> int:
        """The number of folds that the data were split into; it may have a fold model for only some of them."""
        return self.fold_models[0].folds

    @property
    def fold_assignment(self) -> str:
        """The version of the assignment of speakers to folds: several, such as "1, 2", if its runs differ."""
        return ", ".join(map(str, sorted({fold_model.fold_assignment for fold_model in self.fold_models})))

    def keep(self, folds: Sequence[int]) -> Member:
        """The same member with only some of its fold models."""
        return replace(self, fold_models=tuple(model for model in self.fold_models if model.fold in folds))

    def describe(self) -> str:
        """For example `pblstm (folds 0, 1 of 5)`."""
        return f"{self.name} (folds {', '.join(map(str, self.folds))} of {self.fold_count})"


def group_by_member(fold_models: Sequence[FoldModel], patterns: Sequence[str] = ("*",)) -> list[Member]:
    """The members whose name matches one of the globs, sorted by name.

    Raises InputError for a pattern that matches none, and for a member whose runs differ in their number of folds.
    """
    names = sorted({fold_model.name for fold_model in fold_models})
    if not patterns:
        raise InputError(f"--members: no name is given; there are: {', '.join(names)}")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"--members {pattern}: no finished member has such a name; there are: {', '.join(names)}")
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    members = []
    for name in chosen:
        models = sorted((model for model in fold_models if model.name == name), key=lambda model: model.fold)
        if len({model.folds for model in models}) > 1:
            description = ", ".join(f"fold {model.fold} of {model.folds}" for model in models)
            raise InputError(
                f"member {name}: its runs differ in their number of folds ({description}): train them with one --folds"
            )
        members.append(Member(name, tuple(models)))
    return members


def measurable_on_dev(fold_models: Sequence[FoldModel], patterns: Sequence[str]) -> tuple[list[FoldModel], list[str]]:
    """The fold models that were not trained on dev, and a note for each that was.

    Raises InputError for a pattern that matches only members that were trained on dev.
    """
    names = {fold_model.name for fold_model in fold_models}
    trained_on_dev = {fold_model.name for fold_model in fold_models if fold_model.with_dev}
    for pattern in patterns:
        matched = set(fnmatch.filter(names, pattern))
        if matched and matched <= trained_on_dev:
            raise InputError(
                f"--members {pattern}: {', '.join(sorted(matched))} was trained on dev too, so a distance on dev says "
                "nothing about it: decode it with python -m ensemble.decode --split test"
            )
    kept = [fold_model for fold_model in fold_models if not fold_model.with_dev]
    notes = [f"left out: {name} was trained on dev too, so it is not measured there" for name in sorted(trained_on_dev)]
    return kept, notes


def with_held_out(fold_models: Sequence[FoldModel]) -> tuple[list[FoldModel], list[str]]:
    """The fold models that hold out a fold, by which a blend can weigh them, and a note for each that does not."""
    kept = [model for model in fold_models if model.folds > 1]
    notes = [
        f"left out: {model.name} was trained on all utterances, so it has no out-of-fold predictions to weigh it by"
        for model in fold_models
        if model.folds == 1
    ]
    return kept, notes
