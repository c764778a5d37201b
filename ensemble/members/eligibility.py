"""The competition's rules on models: total parameters and forbidden tags, checked before a submission is used up.

Every network that a blend uses, fold model or refit, counts with all its parameters. A model's tags are declared where
it is registered; they are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ensemble.members.member import Member
from folds.competition.base import Rules
from folds.store.fold_model import FoldModel
from registry import InputError


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
            unit = "in all its networks" if together else "per network"
            notes.append(f"left out by the rules: {member.name} ({parameters:,} parameters {unit})")
        else:
            kept.append(member)
    if not kept:
        raise InputError(f"no member meets the rules ({'; '.join(notes)}): loosen --max-params or --forbid")
    return kept, notes


def minimum_parameters(members: Sequence[Member], together: bool = False) -> tuple[int, ...]:
    """The fewest parameters with which each member can be used: one network, or all of them if used `together`."""
    if together:
        return tuple(member.parameters for member in members)
    return tuple(min(network.parameters for network in member.networks) for member in members)


def keep_within_max_params(
    members: Sequence[Member], weights: Mapping[str, float], max_params: int | None
) -> list[Member]:
    """The members with weight, each with as many of its networks as `max_params` allows.

    Every member keeps one network first: its refit, which has seen the most data, if that leaves enough for the others'
    smallest, or its smallest fold model. Then each member in turn, the one with the largest weight first, keeps one
    more if the total allows it. This is a rule and not a fit: out-of-fold predictions chose the members, but cannot
    rank one member's networks, because each fold model predicts different utterances and a refit none.
    """
    chosen = [member for member in members if weights.get(member.name, 0.0) > 0]
    chosen.sort(key=lambda member: (-weights[member.name], member.name))
    if max_params is None:
        return sorted(chosen, key=lambda member: member.name)
    queues = {
        member.name: [
            *([] if member.refit is None else [member.refit]),
            *sorted(member.fold_models, key=lambda model: (model.parameters, model.fold)),
        ]
        for member in chosen
    }
    kept: dict[str, list[FoldModel]] = {name: [] for name in queues}
    left = max_params
    smallest = {name: min(network.parameters for network in queue) for name, queue in queues.items()}
    reserved = sum(smallest.values())
    for name, queue in queues.items():
        reserved -= smallest[name]
        fitting = (network for network in queue if network.parameters <= left - reserved)
        if (first := next(fitting, None)) is not None:
            queue.remove(first)
            left -= first.parameters
            kept[name].append(first)
    while any(queues.values()):
        for name, queue in queues.items():
            if queue:
                network = queue.pop(0)
                if network.parameters <= left:
                    left -= network.parameters
                    kept[name].append(network)
    return sorted((m.keep(kept[m.name]) for m in chosen if kept[m.name]), key=lambda member: member.name)


def total_parameters(members: Sequence[Member]) -> int:
    """Parameters of all networks together."""
    return sum(member.parameters for member in members)


def all_tags(members: Sequence[Member]) -> list[str]:
    """Every tag of every model used, sorted."""
    return sorted({tag for member in members for tag in member.tags})
