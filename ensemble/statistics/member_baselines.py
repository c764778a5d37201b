"""The distance of each member alone, on which a blend has to improve.

On dev, a member with several folds is measured in three ways: the mean of its fold models' distances, the distance of
hypotheses decoded from the mean of their posteriors, and the distance of the blender `single`, which uses the language
model; its refit is measured without and with the language model. A blend uses the language model, so a comparison with
a member decoded without one would credit the blend with the language model's gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ensemble.blenders.average import average_frames
from ensemble.blenders.base import BlendRecipe, predict_with, view_of
from ensemble.blenders.single import fit_first_pass, leading_members
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.members.member import Networks
from folds.competition.metric import edit_distances

# A beam wide enough for the best hypothesis of a mean of posteriors.
BEAM = 20


class Alternative(NamedTuple):
    """An alternative to the ensemble: its description, and its edit distances (N,) on dev."""

    name: str
    dev: np.ndarray


@dataclass(frozen=True)
class MemberBaseline:
    """Edit distances (N,) of one member."""

    name: str
    oof: np.ndarray
    """Distances out of fold, without a language model."""
    dev: np.ndarray
    """Distances on dev, the mean over its networks."""
    dev_mean: np.ndarray
    """Distances on dev of hypotheses decoded from the mean of its networks' posteriors."""
    dev_lm: np.ndarray
    """Distances on dev with the language model, decoded by the blender `single`."""
    recipe: BlendRecipe
    """How it is decoded with the language model."""
    hypotheses: list[list[int]]
    """The hypotheses on dev behind `dev_lm`."""
    refit: np.ndarray | None = None
    """Distances on dev of its refit."""
    refit_lm: np.ndarray | None = None
    """Distances on dev of its refit, decoded with the language model."""

    @property
    def alternatives(self) -> list[Alternative]:
        """All systems of this member alone."""
        measured = {
            self.name: min(self.dev, self.dev_mean, key=np.mean),
            f"{self.name} with the language model": self.dev_lm,
            f"the refit of {self.name}": self.refit,
            f"the refit of {self.name} with the language model": self.refit_lm,
        }
        return [Alternative(name, dev) for name, dev in measured.items() if dev is not None]


def measure_members(inputs: OpenedInputs) -> list[MemberBaseline]:
    """The baseline of every member, in the order of `inputs.members`, with the networks that the rules allow."""
    leading = leading_members(inputs.oof)
    return [_measure(inputs, member, _settings(inputs, member, leading)) for member in range(len(inputs.members))]


def strongest(baselines: Sequence[MemberBaseline]) -> Alternative:
    """The single-member system with the lowest distance on dev, which need not be the best one out of fold."""
    alternatives = [alternative for baseline in baselines for alternative in baseline.alternatives]
    return min(alternatives, key=lambda alternative: float(alternative.dev.mean()))


def _settings(inputs: OpenedInputs, member: int, leading: Sequence[int]) -> dict[str, float]:
    """A member's first-pass settings: fitted for the leading members, those of the N-best search for the others."""
    if member in leading or inputs.oof.fusion is None:
        return fit_first_pass(inputs.oof, member)[0]
    fusion = inputs.oof.fusion.settings(member)
    names = ("lm_weight", "length_bonus", "prior_weight")
    return {name: float(getattr(fusion, name)) for name in names}


def _measure(inputs: OpenedInputs, member: int, settings: dict[str, float]) -> MemberBaseline:
    name = inputs.members[member].name
    (oof_index,) = inputs.oof.prediction_indices([member])
    oof = _distances(inputs.oof, oof_index)
    recipe = BlendRecipe("single", {name: 1.0}, settings)

    def measured(networks: Networks) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        kept = inputs.keep(recipe.weights, networks)
        return *_without_lm(view_of(inputs.dev, kept), member), predict_with(inputs.dev, recipe, kept)

    def distances_of(hypotheses: list[list[int]]) -> np.ndarray:
        return edit_distances(hypotheses, inputs.dev.references)

    # With averaged frames there is one choice of networks, and it need not be the fold models.
    dev, dev_mean, hypotheses = measured(inputs.choices[0])
    baseline = MemberBaseline(name, oof, dev, dev_mean, distances_of(hypotheses), recipe, hypotheses)
    if "refits" not in inputs.choices[1:] or inputs.members[member].refit is None:
        return baseline
    refit, _, refit_hypotheses = measured("refits")
    return replace(baseline, refit=refit, refit_lm=distances_of(refit_hypotheses))


def _without_lm(dev: BlendInputs, member: int) -> tuple[np.ndarray, np.ndarray]:
    """The distances averaged over the member's networks, and the distances of the mean of their posteriors."""
    indices = dev.prediction_indices([member])
    by_network = np.mean([_distances(dev, index) for index in indices], axis=0)
    if len(indices) == 1:
        return by_network, by_network
    mean = average_frames(dev, np.eye(len(dev.names))[member])
    nbest = nbest_of(mean, BEAM, f"{dev.names[member]} dev")
    return by_network, edit_distances(nbest.best, dev.references)


def _distances(inputs: BlendInputs, index: int) -> np.ndarray:
    return edit_distances(inputs.nbest(index).best, inputs.references)
