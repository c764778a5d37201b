"""Hypotheses joined from all members' proposals and scored by each of them, before a pool keeps the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.proposals import find_hypotheses
from ensemble.hypotheses.scoring import normalized_posteriors
from folds.store.ragged import Ragged


@dataclass(frozen=True, eq=False)
class ScoredHypotheses:
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]` of `tokens`, in order of tokens."""

    offsets: np.ndarray
    tokens: Ragged
    ctc: dict[int, np.ndarray]
    """Their log-likelihoods under each prediction, by its index, (H,) each."""

    def look_up(self, index: int, offsets: np.ndarray, tokens: Ragged) -> np.ndarray:
        """The log-likelihoods of other hypotheses of the same utterances, NaN where they are not known."""
        if index not in self.ctc:
            return np.full(len(tokens), np.nan)
        found = find_hypotheses(offsets, tokens, self.offsets, self.tokens)
        return np.where(found >= 0, self.ctc[index][found], np.nan)


def joint_posteriors(
    scores: Sequence[np.ndarray],
    terms: Sequence[np.ndarray],
    offsets: np.ndarray,
    weights: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """The weighted sum (H,) of each hypothesis's posteriors under all models, without and with language model terms.

    `scores` and `terms` hold an array (H,) per model, `weights` a number. The posterior of the models' mean score would
    be as simple, but a single useless model would decide it.
    """
    total = np.zeros(len(scores[0]))
    for of_model, added, weight in zip(scores, terms, weights, strict=True):
        both = normalized_posteriors(of_model, offsets) + normalized_posteriors(of_model + added, offsets)
        total += weight * both
    return total
