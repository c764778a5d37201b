"""Each member by itself, decoded by beam search: what a blend has to beat.

On dev a member with several folds can be measured two ways: the mean of its fold models' distances, and the distance
of the one string made from the mean of their posteriors. Either may be the lower, so both are kept. A blend has a
phone language model too, so a member is also measured with one: what is left then is the ensemble's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.blenders.average import average
from ensemble.blenders.base import BlendRecipe
from ensemble.blenders.rescore import Rescore, fit_lm_settings
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.scoring import MEANS, NO_LM
from folds.competition.metric import edit_distances


@dataclass(frozen=True)
class MemberBaseline:
    """Edit distances (N,) of one member: out of fold; on dev the mean over its fold models, and of their mean frame.

    `dev_lm` is of all its fold models' strings, rescored by them all and a language model fitted out of fold.
    """

    name: str
    oof: np.ndarray
    dev: np.ndarray
    dev_mean: np.ndarray
    dev_lm: np.ndarray

    @property
    def best_dev(self) -> np.ndarray:
        """The lower of the two on dev without a language model."""
        return min(self.dev, self.dev_mean, key=lambda distances: float(distances.mean()))


def alone(oof: BlendInputs, dev: BlendInputs) -> list[MemberBaseline]:
    """Every member by itself."""
    found = []
    for member, name in enumerate(oof.names):
        (stream,) = oof.predictions_of([member])
        predictions = dev.predictions_of([member])
        folds = np.mean([_distances(dev, stream) for stream in predictions], axis=0)
        if len(predictions) > 1:
            weights = np.eye(len(oof.names))[member]
            strings = nbest_of(average(dev, weights), 20, f"{name} dev").strings
            mean = edit_distances([list(best[0]) for best in strings], dev.references)
        else:
            mean = folds
        found.append(MemberBaseline(name, _distances(oof, stream), folds, mean, _with_language(oof, dev, member)))
    return found


def best_baseline(singles: Sequence[MemberBaseline]) -> MemberBaseline:
    """The member with the lowest distance on dev: the hardest to beat there, whatever OOF would have picked."""
    return min(singles, key=lambda each: float(each.best_dev.mean()))


def best_baseline_with_lm(singles: Sequence[MemberBaseline]) -> MemberBaseline:
    """The same among members that have a language model."""
    return min(singles, key=lambda each: float(each.dev_lm.mean()))


def _with_language(oof: BlendInputs, dev: BlendInputs, member: int) -> np.ndarray:
    pool = oof.pool([member])
    settings = fit_lm_settings(pool.ctc[:, 0], pool, NO_LM | {"mean": MEANS[0]})
    strings = Rescore().predict(dev, BlendRecipe("rescore", {oof.names[member]: 1.0}, settings))
    return edit_distances(strings, dev.references)


def _distances(inputs: BlendInputs, stream: int) -> np.ndarray:
    return edit_distances([list(best[0]) for best in inputs.nbest(stream).strings], inputs.references)
