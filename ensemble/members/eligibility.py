"""The competition's rules on models: total parameters and forbidden tags, checked before a submission is used up.

Every fold model that a blend uses counts with all its parameters. A model's tags are declared where it is registered;
they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ensemble.members.member import Member
from registry import InputError


@dataclass(frozen=True)
class Rules:
    """What a competition allows."""

    max_params: int | None = None
    """Maximum total number of parameters over all fold models used; None for no limit."""
    forbid: tuple[str, ...] = ()
    """Tags that no model used may have."""


def filter_by_rules(members: Sequence[Member], rules: Rules, together: bool = False) -> tuple[list[Member], list[str]]:
    """The members that meet the rules, and a note on each of the others.

    `together` is as in `minimum_parameters`. Raises InputError when none is left.
    """
    kept, notes = [], []
    for member, parameters in zip(members, minimum_parameters(members, together), strict=True):
        forbidden = [tag for tag in member.tags if tag in rules.forbid]
        if forbidden:
            notes.append(f"left out by the rules: {member.name} (tag {', '.join(forbidden)})")
        elif rules.max_params is not None and parameters > rules.max_params:
            unit = "in all its fold models" if together else "per fold model"
            notes.append(f"left out by the rules: {member.name} ({parameters:,} parameters {unit})")
        else:
            kept.append(member)
    if not kept:
        raise InputError(f"no member meets the rules ({'; '.join(notes)}): loosen --max-params or --forbid")
    return kept, notes


def minimum_parameters(members: Sequence[Member], together: bool = False) -> tuple[int, ...]:
    """The fewest parameters with which each member can be used: one fold model, or all of them if used `together`."""
    if together:
        return tuple(member.parameters for member in members)
    return tuple(min(fold_model.parameters for fold_model in member.fold_models) for member in members)


def keep_within_max_params(
    members: Sequence[Member], weights: Mapping[str, float], max_params: int | None
) -> list[Member]:
    """The members with weight, each with as many of its fold models as `max_params` allows.

    Every member keeps its smallest fold model first. Then each member in turn, the one with the largest weight first,
    keeps one more if the total allows it. This is a rule and not a fit: out-of-fold predictions chose the members, but
    cannot rank one member's fold models, because each predicts different utterances.
    """
    chosen = [member for member in members if weights.get(member.name, 0.0) > 0]
    chosen.sort(key=lambda member: (-weights[member.name], member.name))
    if max_params is None:
        return sorted(chosen, key=lambda member: member.name)
    queues = {
        member.name: sorted(member.fold_models, key=lambda model: (model.parameters, model.fold)) for member in chosen
    }
    kept: dict[str, list[int]] = {name: [] for name in queues}
    left = max_params
    while any(queues.values()):
        for name, queue in queues.items():
            if queue:
                fold_model = queue.pop(0)
                if fold_model.parameters <= left:
                    left -= fold_model.parameters
                    kept[name].append(fold_model.fold)
    return sorted((m.keep(kept[m.name]) for m in chosen if kept[m.name]), key=lambda member: member.name)


def total_parameters(members: Sequence[Member]) -> int:
    """Parameters of all fold models together."""
    return sum(member.parameters for member in members)


def all_tags(members: Sequence[Member]) -> list[str]:
    """Every tag of every model used, sorted."""
    return sorted({tag for member in members for tag in member.tags})
