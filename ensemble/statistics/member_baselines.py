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
from ensemble.blenders.base import Recipe
from ensemble.blenders.rescore import Rescore, fit_prior
from ensemble.hypotheses.blend_inputs import Evidence
from ensemble.hypotheses.nbest import nbest_of
from ensemble.hypotheses.scoring import MEANS, NO_PRIOR
from folds.competition.metric import edit_distances


@dataclass(frozen=True)
class Alone:
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


def alone(oof: Evidence, dev: Evidence) -> list[Alone]:
    """Every member by itself."""
    found = []
    for member, name in enumerate(oof.names):
        (stream,) = oof.streams_of([member])
        streams = dev.streams_of([member])
        folds = np.mean([_distances(dev, stream) for stream in streams], axis=0)
        if len(streams) > 1:
            weights = np.eye(len(oof.names))[member]
            strings = nbest_of(average(dev, weights), 20, f"{name} dev").strings
            mean = edit_distances([list(best[0]) for best in strings], dev.references)
        else:
            mean = folds
        found.append(Alone(name, _distances(oof, stream), folds, mean, _with_language(oof, dev, member)))
    return found


def best_alone(singles: Sequence[Alone]) -> Alone:
    """The member with the lowest distance on dev: the hardest to beat there, whatever OOF would have picked."""
    return min(singles, key=lambda each: float(each.best_dev.mean()))


def best_with_language(singles: Sequence[Alone]) -> Alone:
    """The same among members that have a language model."""
    return min(singles, key=lambda each: float(each.dev_lm.mean()))


def _with_language(oof: Evidence, dev: Evidence, member: int) -> np.ndarray:
    pool = oof.pool([member])
    settings = fit_prior(pool.ctc[:, 0], pool, NO_PRIOR | {"mean": MEANS[0]})
    strings = Rescore().predict(dev, Recipe("rescore", {oof.names[member]: 1.0}, settings))
    return edit_distances(strings, dev.references)


def _distances(evidence: Evidence, stream: int) -> np.ndarray:
    return edit_distances([list(best[0]) for best in evidence.nbest(stream).strings], evidence.references)
