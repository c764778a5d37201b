"""The systems that a report compares, members and blends, and the edits of their hypotheses on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ensemble.blenders.base import predict_with
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.report_page.blends import Blend
from ensemble.statistics.confusions import Edit, list_edits
from ensemble.statistics.diversity import mean_over_pairs, pairwise_distances
from ensemble.statistics.member_baselines import MemberBaseline
from folds.data.dataset import Split


@dataclass(frozen=True)
class System:
    """A member alone, decoded with the language model, or a blend; with its hypotheses for one split."""

    name: str
    kind: Literal["member", "blend"]
    hypotheses: list[list[int]]
    weight: float | None = None
    """A member's weight in the first blend; None if there is no blend."""


@dataclass(frozen=True)
class Comparison:
    """Systems compared on the N utterances of one split."""

    split: Split
    systems: list[System]
    targets: list[list[int]]
    """The sequences to align hypotheses with: references or, without any, the first system's hypotheses."""
    weighted_by: str | None = None
    """The blend whose weights the members have, which need not be one of the systems; None if there is no blend."""

    @property
    def labelled(self) -> bool:
        """Whether the targets are references."""
        return self.split.tokens is not None

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The speaker or day of each utterance; None if the data name none."""
        return self.split.named_groups

    @property
    def members(self) -> list[int]:
        """Indices of the systems that are members."""
        return [index for index, system in enumerate(self.systems) if system.kind == "member"]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of phonemes in each target, (N,)."""
        return np.array([len(target) for target in self.targets], np.int64)

    @cached_property
    def edits(self) -> list[list[list[Edit]]]:
        """The edits that turn targets into hypotheses, for each system and utterance."""
        return [[list_edits(*pair) for pair in zip(s.hypotheses, self.targets, strict=True)] for s in self.systems]

    @cached_property
    def distances(self) -> np.ndarray:
        """Edit distances to the targets, (K, N) int64."""
        return np.array([[len(edits) for edits in system] for system in self.edits], np.int64)

    @cached_property
    def pairwise(self) -> np.ndarray:
        """Edit distances between the hypotheses of every pair of systems, (K, K, N) int64."""
        return pairwise_distances([system.hypotheses for system in self.systems])

    @cached_property
    def disagreement(self) -> np.ndarray:
        """Mean edit distance between the hypotheses of all pairs of members, (N,)."""
        return mean_over_pairs(self.pairwise[np.ix_(self.members, self.members)])

    @cached_property
    def hardest_first(self) -> np.ndarray:
        """Utterances by decreasing mean distance; without references, by decreasing disagreement."""
        return np.argsort(-(self.distances.mean(axis=0) if self.labelled else self.disagreement), kind="stable")


def compare_systems(
    inputs: OpenedInputs, split: Split, baselines: Sequence[MemberBaseline], blends: Sequence[Blend]
) -> Comparison:
    """All systems on dev or test: the blends that can be recomputed, then the members, strongest first."""
    on_dev = split.name == "dev"
    systems = [
        System(blend.name, "blend", blend.dev if on_dev else blend.predict(inputs.test))
        for blend in blends
        if blend.dev is not None
    ]
    weights = blends[0].sidecar.recipe.weights if blends else None
    for baseline in sorted(baselines, key=lambda baseline: float(baseline.dev_lm.mean())):
        hypotheses = baseline.hypotheses if on_dev else _predict_alone(inputs, baseline)
        weight = None if weights is None else weights.get(baseline.name, 0.0)
        systems.append(System(baseline.name, "member", hypotheses, weight))
    labelled = split.tokens is not None
    references = [split.labels(row).tolist() for row in range(len(split))] if labelled else systems[0].hypotheses
    return Comparison(split, systems, references, blends[0].name if blends else None)


def _predict_alone(inputs: OpenedInputs, baseline: MemberBaseline) -> list[list[int]]:
    return predict_with(inputs.test, baseline.recipe, inputs.keep(baseline.recipe.weights, inputs.choices[0]))
