"""The competition's rules on models: total parameters and forbidden kinds, checked before a submission is spent.

Every fold model that a blend uses counts with all its parameters. It knows the tags members carry, not what is true of
them: a model's tags are declared where it is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.members.member import Member
from registry import InputError


@dataclass(frozen=True)
class Rules:
    """`max_params`: the most parameters of all models together, None for no limit; `forbid`: tags not allowed."""

    max_params: int | None = None
    forbid: tuple[str, ...] = ()




def admitted(groups: Sequence[Member], rules: Rules, whole: bool = False) -> tuple[list[Member], list[str]]:
    """The members inside the rules one by one, and what there is to say of the others; `whole` as in `costs`.

    Raises InputError when none is left.
    """
    kept, notes = [], []
    for group, smallest in zip(groups, costs(groups, whole), strict=True):
        banned = [tag for tag in group.tags if tag in rules.forbid]
        if banned:
            notes.append(f"left out by the rules: {group.name} (tag {', '.join(banned)})")
        elif rules.max_params is not None and smallest > rules.max_params:
            told = "in all its fold models" if whole else "a fold model"
            notes.append(f"left out by the rules: {group.name} ({smallest:,} parameters {told})")
        else:
            kept.append(group)
    if not kept:
        raise InputError(f"no member is inside the rules ({'; '.join(notes)}): loosen --max-params or --forbid")
    return kept, notes


def costs(groups: Sequence[Member], whole: bool = False) -> tuple[int, ...]:
    """What using a member costs, in parameters: at least one fold model, or all of them where they go together."""
    if whole:
        return tuple(group.parameters for group in groups)
    return tuple(min(member.parameters for member in group.members) for group in groups)


def within_budget(groups: Sequence[Member], weights: dict[str, float], budget: int | None) -> list[Member]:
    """The members with weight, each with as many of its fold models as the budget has room for.

    Every member gets one first, the smallest; what is left buys further ones, a round at a time, the heaviest member
    first. Out-of-fold predictions chose the members; they cannot rank one member's folds, which all predict different
    utterances, so this is a rule and not a fit.
    """
    chosen = sorted((g for g in groups if weights.get(g.name, 0.0) > 0), key=lambda g: (-weights[g.name], g.name))
    if budget is None:
        return sorted(chosen, key=lambda g: g.name)
    queues = {g.name: sorted(g.members, key=lambda m: (m.parameters, m.fold)) for g in chosen}
    kept: dict[str, list[int]] = {name: [] for name in queues}
    left = budget
    while any(queues.values()):
        for name, queue in queues.items():
            if queue:
                member = queue.pop(0)
                if member.parameters <= left:
                    left -= member.parameters
                    kept[name].append(member.fold)
    return sorted((g.keep(kept[g.name]) for g in chosen if kept[g.name]), key=lambda g: g.name)


def total_parameters(groups: Sequence[Member]) -> int:
    """Parameters of all fold models together."""
    return sum(group.parameters for group in groups)


def all_tags(groups: Sequence[Member]) -> list[str]:
    """Every tag of every model used, sorted."""
    return sorted({tag for group in groups for tag in group.tags})
