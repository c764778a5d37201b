"""From the store's fold models to what a blend combines: members, checked, over the same utterances.

A member of a blend is one (model, seed) with the folds it has. Out of fold, each utterance has one prediction a
member, by the fold model that did not see it; on dev and test every fold model predicts all, so a member brings one
stream of log-probabilities a fold. What is missing is said, what disagrees is refused; nothing is filled in. How
streams are combined is the blenders' business.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from folds.store.fold_model import FoldModel
from registry import InputError


@dataclass(frozen=True)
class Member:
    """One member of a blend: the fold models of one (model, seed), sorted by fold."""

    name: str
    members: tuple[FoldModel, ...]

    @property
    def parameters(self) -> int:
        """Parameters of all its fold models together: each is a model of its own."""
        return sum(member.parameters for member in self.members)

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(sorted({tag for member in self.members for tag in member.tags}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds it has."""
        return tuple(member.fold for member in self.members)

    def keep(self, folds: Sequence[int]) -> Member:
        """The same member with only some of its fold models."""
        return replace(self, members=tuple(member for member in self.members if member.fold in folds))

    def describe(self) -> str:
        """For example `pblstm (folds 0, 1 of 5)`."""
        return f"{self.name} (folds {', '.join(map(str, self.folds))} of {self.members[0].folds})"




def group_by_member(members: Sequence[FoldModel], patterns: Sequence[str] = ("*",)) -> list[Member]:
    """Members whose name matches one of the globs, by name. Raises InputError where a pattern matches none."""
    names = sorted({member.name for member in members})
    if not patterns:
        raise InputError(f"--members: none is named; there are: {', '.join(names)}")
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"--members {pattern}: no finished member is called so; there are: {', '.join(names)}")
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    groups = []
    for name in chosen:
        found = sorted((m for m in members if m.name == name), key=lambda m: m.fold)
        if len({m.folds for m in found}) > 1:
            told = ", ".join(f"fold {m.fold} of {m.folds}" for m in found)
            raise InputError(f"member {name}: its runs disagree on the number of folds ({told}): train them alike")
        groups.append(Member(name, tuple(found)))
    return groups


def with_held_out(members: Sequence[FoldModel]) -> tuple[list[FoldModel], list[str]]:
    """The members that hold something out, which a blend can weigh, and a note for each that does not."""
    kept = [member for member in members if member.folds > 1]
    notes = [f"fitted on everything, nothing to weigh it by, left out: {m.name}" for m in members if m.folds == 1]
    return kept, notes




def oof_folds(group: Member) -> dict[str, int]:
    """Which fold model predicted each out-of-fold utterance. Raises InputError when two folds claim one utterance."""
    fold_of: dict[str, int] = {}
    for member in group.members:
        for name in member.load("oof").ids:
            if name in fold_of:
                raise InputError(
                    f"member {group.name}: folds {fold_of[name]} and {member.fold} both hold out {name}: "
                    "they were trained on different splits; train them again alike"
                )
            fold_of[name] = member.fold
    return fold_of


def common_oof(groups: Sequence[Member], train_ids: Sequence[str]) -> tuple[list[str], np.ndarray, list[str]]:
    """The utterances every member has out of fold, in the data's order, their folds (N,), and what there is to say.

    Folds are those of the member that has the fewest, since a member with more folds may split them further. Raises
    InputError for utterances the data does not have, and when no utterance is common to all.
    """
    known, maps, notes = set(train_ids), [oof_folds(group) for group in groups], []
    for group, fold_of in zip(groups, maps, strict=True):
        foreign = [name for name in fold_of if name not in known]
        if foreign:
            raise InputError(
                f"member {group.name}: {len(foreign)} out-of-fold utterances are not in the data's training split, "
                f"the first is {foreign[0]}: it was trained on other data; leave it out with --members"
            )
    common = set.intersection(*(set(fold_of) for fold_of in maps))
    if not common:
        told = "; ".join(f"{g.describe()}: {len(m)} utterances" for g, m in zip(groups, maps, strict=True))
        raise InputError(f"no out-of-fold utterance is common to all members ({told}): leave some out with --members")
    ids = [name for name in train_ids if name in common]
    fewest = min(range(len(groups)), key=lambda g: (groups[g].members[0].folds, g))
    folds = np.array([maps[fewest][name] for name in ids], np.int64)
    whole = {group.members[0].folds for group in groups}
    notes.append(
        f"out of fold: {len(ids)} of {len(train_ids)} training utterances are predicted by every member "
        f"(folds {', '.join(map(str, sorted(set(folds.tolist()))))} of {groups[fewest].members[0].folds})"
    )
    for group, fold_of in zip(groups, maps, strict=True):
        if len(fold_of) > len(ids):
            notes.append(f"  {group.describe()} has {len(fold_of)}; {len(fold_of) - len(ids)} of them are not used")
    if len(whole) > 1:
        notes.append(f"  members differ in their number of folds ({', '.join(map(str, sorted(whole)))})")
    return ids, folds, notes








