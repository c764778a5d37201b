"""Which utterances the members of a blend predict out of fold, and whether their folds agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ensemble.members.member import Member
from registry import InputError


class OutOfFold(NamedTuple):
    """Utterances `ids` that every member predicts out of fold, their `folds` (N,), and `notes` for the user."""

    ids: list[str]
    folds: np.ndarray
    notes: list[str]


def oof_folds(member: Member) -> dict[str, int]:
    """The fold that holds out each utterance. Raises InputError if two folds hold out the same utterance."""
    fold_of: dict[str, int] = {}
    for fold_model in member.fold_models:
        for utterance in fold_model.load("oof").ids:
            if utterance in fold_of:
                folds = f"folds {fold_of[utterance]} and {fold_model.fold}"
                raise InputError(
                    f"member {member.name}: {folds} both hold out {utterance}: "
                    "their folds were assigned differently; train one of them again"
                )
            fold_of[utterance] = fold_model.fold
    return fold_of


def common_oof(members: Sequence[Member], train_ids: Sequence[str]) -> OutOfFold:
    """The utterances that every member predicts out of fold, in the order of `train_ids`.

    The folds are those of the member with the fewest, since a member with more folds may split them further. Raises
    InputError for utterances that the data does not have, for members whose folds were assigned differently, and if
    fewer than two utterances are common to all.
    """
    fold_maps = [oof_folds(member) for member in members]
    known = set(train_ids)
    for member, fold_of in zip(members, fold_maps, strict=True):
        unknown = [utterance for utterance in fold_of if utterance not in known]
        if unknown:
            raise InputError(
                f"member {member.name}: {len(unknown)} out-of-fold utterances are not in the data's training split, "
                f"the first is {unknown[0]}: it was trained on different data; leave it out with --members"
            )
    check_fold_assignment(members, fold_maps)
    common = set.intersection(*(set(fold_of) for fold_of in fold_maps))
    if len(common) < 2:
        few = "only one" if common else "no"
        raise InputError(
            f"{few} utterance was held out by every member, but fitting weights takes at least two "
            f"({_describe_folds(members)}): train the same folds of each, or leave some out with --members"
        )
    ids = [utterance for utterance in train_ids if utterance in common]
    fewest = min(range(len(members)), key=lambda index: (members[index].fold_count, index))
    folds = np.array([fold_maps[fewest][utterance] for utterance in ids], np.int64)
    notes = [
        f"out of fold: {len(ids)} of {len(train_ids)} training utterances are predicted by every member "
        f"(folds {', '.join(map(str, sorted(set(folds.tolist()))))} of {members[fewest].fold_count})"
    ]
    for member, fold_of in zip(members, fold_maps, strict=True):
        if len(fold_of) > len(ids):
            notes.append(f"  {member.describe()} has {len(fold_of)}; {len(fold_of) - len(ids)} of them are not used")
    notes += _limiting_notes(members, fold_maps)
    fold_counts = sorted({member.fold_count for member in members})
    if len(fold_counts) > 1:
        notes.append(f"  members differ in their number of folds ({', '.join(map(str, fold_counts))})")
    return OutOfFold(ids, folds, notes)


def _describe_folds(members: Sequence[Member]) -> str:
    """The members grouped by their folds: "a, b: fold 0 of 5; c: fold 1 of 5"."""
    names: dict[str, list[str]] = {}
    for member in members:
        names.setdefault(member.describe_folds(), []).append(member.name)
    return "; ".join(f"{', '.join(of_folds)}: {folds}" for folds, of_folds in names.items())


def _limiting_notes(members: Sequence[Member], fold_maps: Sequence[Mapping[str, int]]) -> list[str]:
    """A note for each member without which the others would have more utterances in common."""
    counts = Counter(utterance for fold_of in fold_maps for utterance in fold_of)
    common = sum(count == len(members) for count in counts.values())
    notes = []
    for member, fold_of in zip(members, fold_maps, strict=True):
        without = sum(count - (utterance in fold_of) == len(members) - 1 for utterance, count in counts.items())
        if len(members) > 1 and without > common:
            notes.append(
                f"  only {common} because of {member.describe()}; the other members have {without} in common: "
                "train its missing folds, or leave it out with --members"
            )
    return notes


def check_fold_assignment(members: Sequence[Member], fold_maps: Sequence[Mapping[str, int]]) -> None:
    """Raise InputError, naming two members, if their folds hold out different utterances.

    `fold_maps` are the members' `oof_folds`. Only members with equal numbers of folds are compared, and a member may
    lack some folds. The usual cause is that their folds were assigned by different versions of the code, which
    config.json records as `fold_assignment` (1 where it is absent).
    """
    held_out: dict[tuple[int, int], tuple[Member, set[str]]] = {}
    for member, fold_of in zip(members, fold_maps, strict=True):
        for fold in member.folds:
            ids = {utterance for utterance, number in fold_of.items() if number == fold}
            for (count, other_fold), (other, other_ids) in held_out.items():
                different = ids ^ other_ids if fold == other_fold else ids & other_ids
                if different and count == member.fold_count:
                    assignments = f"fold assignment {other.fold_assignment} and {member.fold_assignment}"
                    raise InputError(
                        f"members {other.name} and {member.name}: their {count} folds hold out different utterances, "
                        f"for example {min(different)} ({assignments}): "
                        "train one of them again, or leave it out with --members"
                    )
            held_out.setdefault((member.fold_count, fold), (member, ids))
