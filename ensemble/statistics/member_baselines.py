"""Distances of each member by itself, decoded by beam search, which a blend has to improve on.

On dev, a member with several folds is measured in two ways: by the mean of its fold models' distances, and by the
distance of the hypothesis decoded from the mean of their posteriors. Either may be lower, so both are kept. A blend
also has a phone language model, so each member is measured with one too: the remaining difference is what the ensemble
gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blenders.average import average_frames
from ensemble.blenders.base import BlendRecipe
from ensemble.blenders.lm_settings import fit_lm_settings
from ensemble.blenders.rescore import Rescore
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.scoring import MEANS, NO_LM_OR_ATTENTION
from folds.competition.metric import edit_distances

# A beam wide enough for the best hypothesis of a mean of posteriors.
BEAM = 20


@dataclass(frozen=True)
class MemberBaseline:
    """Edit distances (N,) of one member."""

    name: str
    oof: np.ndarray
    """Distances out of fold."""
    dev: np.ndarray
    """Distances on dev, the mean over its fold models."""
    dev_mean: np.ndarray
    """Distances on dev of the mean of its fold models' posteriors."""
    dev_lm: np.ndarray
    """Distances on dev of all its fold models' hypotheses, rescored by these models and a language model.

    The language model's weight is fitted out of fold.
    """

    @property
    def best_dev(self) -> np.ndarray:
        """The lower of the two on dev without a language model."""
        return min(self.dev, self.dev_mean, key=lambda distances: float(distances.mean()))


def measure_members(oof: BlendInputs, dev: BlendInputs) -> list[MemberBaseline]:
    """The baseline of every member, in the order of `oof.names`."""
    return [_measure(oof, dev, member) for member in range(len(oof.names))]


def best_baseline(baselines: Sequence[MemberBaseline]) -> MemberBaseline:
    """The member with the lowest distance on dev, which need not be the best one out of fold."""
    return min(baselines, key=lambda baseline: float(baseline.best_dev.mean()))


def best_baseline_with_lm(baselines: Sequence[MemberBaseline]) -> MemberBaseline:
    """The member with the lowest distance on dev with a language model."""
    return min(baselines, key=lambda baseline: float(baseline.dev_lm.mean()))


def _measure(oof: BlendInputs, dev: BlendInputs, member: int) -> MemberBaseline:
    (oof_index,) = oof.prediction_indices([member])
    indices = dev.prediction_indices([member])
    by_fold = np.mean([_distances(dev, index) for index in indices], axis=0)
    if len(indices) > 1:
        mean_frames = average_frames(dev, np.eye(len(oof.names))[member])
        nbest = nbest_of(mean_frames, BEAM, f"{oof.names[member]} dev")
        dev_mean = edit_distances(nbest.best, dev.references)
    else:
        dev_mean = by_fold
    return MemberBaseline(
        oof.names[member], _distances(oof, oof_index), by_fold, dev_mean, _distances_with_lm(oof, dev, member)
    )


def _distances(inputs: BlendInputs, index: int) -> np.ndarray:
    return edit_distances(inputs.nbest(index).best, inputs.references)


def _distances_with_lm(oof: BlendInputs, dev: BlendInputs, member: int) -> np.ndarray:
    pool = oof.pool([member])
    settings, _ = fit_lm_settings(pool.ctc[:, 0], pool, NO_LM_OR_ATTENTION | {"mean": MEANS[0]})
    hypotheses = Rescore().predict(dev, BlendRecipe("rescore", {oof.names[member]: 1.0}, settings))
    return edit_distances(hypotheses, dev.references)
