"""An input layer per group in front of any model: one for each day of a participant, or for each speaker.

Willett et al. 2023 (Nature 620) and the baseline of Brain-to-Text '25 learn a matrix for each day, starting from the
identity. Here the difference from the identity is learned, so that weight decay pulls towards the identity. An
utterance of an unknown group is mapped by the mean of the learned layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from models.layers.lengths import to_device


class GroupFacts(msgspec.Struct, frozen=True):
    """What config.json and a weights file record about a network's group layer.

    Raises ValueError if there are no groups, or if one is named twice.
    """

    by: str
    """What the groups are: "day", "speaker"."""
    groups: tuple[str, ...]
    """The groups with a layer of their own, in the order of the weights."""
    softsign: bool = False

    def __post_init__(self) -> None:
        if not self.groups or len(set(self.groups)) != len(self.groups):
            distinct = len(set(self.groups))
            raise ValueError(f"{len(self.groups)} groups, {distinct} distinct; expected one or more, all distinct")


class GroupLayer(nn.Module):
    """y = x + x Wᵍ + bᵍ for an utterance of group g, with W and b initialised to zero; then softsign, if requested.

    W `(G, F, F)` and b `(G, F)` for G groups and F features. An unknown group gets the mean of all W and of all b.
    """

    def __init__(self, features: int, facts: GroupFacts) -> None:
        super().__init__()
        self._row = {group: row for row, group in enumerate(facts.groups)}
        self.softsign = facts.softsign
        self.weight = nn.Parameter(torch.zeros(len(facts.groups), features, features))
        self.bias = nn.Parameter(torch.zeros(len(facts.groups), features))

    def forward(self, x: Tensor, groups: Sequence[str]) -> Tensor:
        """`(N, T, F)` in and out; `groups` names each utterance's group, and without names all get the mean layer."""
        unknown = len(self._row)
        rows = [self._row.get(group, unknown) for group in groups] or [unknown] * len(x)
        if len(rows) != len(x):
            raise ValueError(f"{len(rows)} groups for {len(x)} utterances")
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if unknown in rows:
            weight, bias = (torch.cat([each, each.mean(dim=0, keepdim=True)]) for each in (weight, bias))
        index = to_device(torch.tensor(rows, device="cpu"), x.device)
        change = torch.baddbmm(bias.index_select(0, index)[:, None], x, weight.index_select(0, index))
        y = x + change
        return nn.functional.softsign(y) if self.softsign else y
