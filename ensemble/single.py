"""Each member by itself, decoded by beam search without a language model: what a blend has to beat.

On dev a member with several folds can be measured two ways: the mean of its fold models' distances, and the distance
of the one string made from the mean of their posteriors. Either may be the lower, so both are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from folds.metric import edit_distances

from .average import average
from .evidence import Evidence
from .pool import nbest_of


@dataclass(frozen=True)
class Alone:
    """Edit distances (N,) of one member: out of fold; on dev the mean over its fold models, and of their mean frame."""

    name: str
    oof: np.ndarray
    dev: np.ndarray
    dev_mean: np.ndarray

    @property
    def best_dev(self) -> np.ndarray:
        """The lower of the two on dev."""
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
        found.append(Alone(name, _distances(oof, stream), folds, mean))
    return found


def best_alone(singles: Sequence[Alone]) -> Alone:
    """The member with the lowest distance on dev: the hardest to beat there, whatever OOF would have picked."""
    return min(singles, key=lambda each: float(each.best_dev.mean()))


def _distances(evidence: Evidence, stream: int) -> np.ndarray:
    return edit_distances([list(best[0]) for best in evidence.nbest(stream).strings], evidence.references)
