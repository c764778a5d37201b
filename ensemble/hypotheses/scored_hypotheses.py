"""Hypotheses merged from all members' proposals and scored by each member, before a pool keeps the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.hypotheses.likelihoods import compute_likelihoods
from ensemble.hypotheses.proposals import find_hypotheses
from ensemble.hypotheses.scoring import normalized_posteriors
from ensemble.members.predictions import Predictions
from folds.store.ragged import Ragged


@dataclass(frozen=True, eq=False)
class ScoredHypotheses:
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]` of `tokens`, sorted by tokens."""

    offsets: np.ndarray
    tokens: Ragged
    ctc: dict[int, np.ndarray]
    """Their log-likelihoods under each prediction, by its index, (H,) each."""

    def look_up(self, index: int, offsets: np.ndarray, tokens: Ragged) -> np.ndarray:
        """The log-likelihoods (H',) of other hypotheses of the same utterances under a prediction, NaN if unknown."""
        if index not in self.ctc:
            return np.full(len(tokens), np.nan)
        found = find_hypotheses(offsets, tokens, self.offsets, self.tokens)
        return np.where(found >= 0, self.ctc[index][found], np.nan)


@dataclass(frozen=True, eq=False)
class ScoreCache:
    """The hypotheses of a split that have been scored so far.

    Most hypotheses of a pool of fewer members are also in the pool of all members, where they were scored.
    """

    scored: list[ScoredHypotheses] = field(default_factory=list)

    def score(self, predictions: Mapping[int, Predictions], offsets: np.ndarray, tokens: Ragged) -> list[np.ndarray]:
        """Log-likelihoods of H hypotheses: an array (H,) for each of the `predictions`, in their order.

        `predictions` has them by index in the split. Utterance u has the hypotheses `offsets[u]:offsets[u + 1]` of
        `tokens`, sorted by tokens.
        """
        scores = {}
        for index, under in predictions.items():
            known = np.full(len(tokens), np.nan)
            for scored in self.scored:
                known = np.where(np.isnan(known), scored.look_up(index, offsets, tokens), known)
            if np.isnan(known).any():
                known = compute_likelihoods(under.load(), offsets, tokens, known, under.name)
            scores[index] = known
        if not any(scores.keys() <= scored.ctc.keys() for scored in self.scored):
            self.scored.append(ScoredHypotheses(offsets, tokens, scores))
        return list(scores.values())


def sum_posteriors(
    scores: Sequence[np.ndarray],
    terms: Sequence[np.ndarray],
    offsets: np.ndarray,
    weights: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """The weighted sum (H,) of each hypothesis's posteriors under all models, without and with language model terms.

    `scores` and `terms` hold an array (H,) per model, `weights` a number per model. The posterior of the models' mean
    score would be just as simple, but a single useless model would dominate it.
    """
    total = np.zeros(len(scores[0]))
    for of_model, added, weight in zip(scores, terms, weights, strict=True):
        both = normalized_posteriors(of_model, offsets) + normalized_posteriors(of_model + added, offsets)
        total += weight * both
    return total
