"""The competition's rules on models: total parameters and forbidden tags, checked before a submission is spent.

Every network that a blend uses, fold model or refit, counts with all its parameters; a network used with several
feature delays (`folds.delay`) counts once. A model's tags are declared where it is registered, and are not verified.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from ensemble.members.member import Member
from folds.competition.base import Rules
from folds.store.fold_model import FoldModel
from registry import InputError


def filter_by_rules(members: Sequence[Member], rules: Rules, together: bool = False) -> tuple[list[Member], list[str]]:
    """The members that meet the rules, and a note on each of the others.

    `together` is as in `minimum_parameters`. Raises InputError if none is left.
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


def first_with_networks(members: Sequence[Member]) -> tuple[int, ...]:
    """For each member, the index of the first one with the same networks: its own, or that of its delayed twin."""
    identity = _identities(members)
    networks = [frozenset(identity[network] for network in member.networks) for member in members]
    return tuple(map(networks.index, networks))


def notes_on_twins(members: Sequence[Member]) -> list[str]:
    """A note on each member that shares only some of its networks with an earlier member, its delayed twin."""
    identity = _identities(members)
    networks = [{identity[network] for network in member.networks} for member in members]
    notes = []
    for index, (member, own) in enumerate(zip(members, networks, strict=True)):
        earlier = zip(members[:index], networks[:index], strict=True)
        partial = [other.name for other, theirs in earlier if own & theirs and own != theirs]
        if partial:
            notes.append(
                f"  {member.name} and {partial[0]} share only some of their networks, so these count more "
                "than once under --max-params: make the missing runs with python -m folds.delay"
            )
    return notes


def _identities(members: Sequence[Member]) -> dict[FoldModel, Hashable]:
    """What identifies each network when networks are counted: its weights if any features are delayed, else its run."""
    networks = [network for member in members for network in member.networks]
    if not any(network.delay for network in networks):
        return {network: network.path for network in networks}
    return {network: network.weights_hash or network.path for network in networks}


def keep_within_max_params(
    members: Sequence[Member], weights: Mapping[str, float], max_params: int | None
) -> list[Member]:
    """The members with nonzero weight, each with as many of its networks as `max_params` allows.

    Every member first keeps one network: its refit, which has seen the most data, if that leaves enough for the other
    members' smallest networks, or else its smallest fold model. Then each member in turn, largest weight first, keeps
    one more if the total allows it. A network that another member, its delayed twin, already keeps costs nothing. This
    is a fixed rule, not a fit: out-of-fold predictions chose the members, but cannot rank one member's networks,
    because each fold model predicts different utterances and a refit none.
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
    identity, counted = _identities(chosen), set[Hashable]()
    left = max_params

    def cost(network: FoldModel) -> int:
        return 0 if identity[network] in counted else network.parameters

    def keep(name: str, network: FoldModel) -> None:
        nonlocal left
        left -= cost(network)
        counted.add(identity[network])
        kept[name].append(network)

    twins = first_with_networks(chosen)
    smallest = {name: min(network.parameters for network in queue) for name, queue in queues.items()}
    for index, (name, queue) in enumerate(queues.items()):
        reserved = sum(
            smallest[member.name] for other, member in enumerate(chosen) if other > index and twins[other] == other
        )
        first = next((network for network in queue if cost(network) <= left - reserved), None)
        if first is not None:
            queue.remove(first)
            keep(name, first)
    while any(queues.values()):
        for name, queue in queues.items():
            if queue and cost(network := queue.pop(0)) <= left:
                keep(name, network)
    return sorted((m.keep(kept[m.name]) for m in chosen if kept[m.name]), key=lambda member: member.name)


def total_parameters(members: Sequence[Member]) -> int:
    """Total parameters of all networks."""
    identity = _identities(members)
    counted = {identity[network]: network.parameters for member in members for network in member.networks}
    return sum(counted.values())


def count_networks(members: Sequence[Member]) -> int:
    """The number of networks; a network used with several feature delays counts once."""
    return len(set(_identities(members).values()))


def all_tags(members: Sequence[Member]) -> list[str]:
    """Every tag of every model used, sorted."""
    return sorted({tag for member in members for tag in member.tags})
