"""Pools: the best of all members' proposals for each utterance, with every model's exact log-likelihoods.

A pool holds what a search over weights needs in every trial (scores, lengths, distances to the reference) in flat
arrays, so that a trial is one matrix product and one maximum. An utterance's hypotheses are sorted by tokens, so a pool
does not depend on the order of the members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.lm.automaton import sum_tokens
from ensemble.lm.ngram import PhoneLM
from folds.store.ragged import Ragged


@dataclass(frozen=True)
class Pool:
    """Hypotheses of N utterances in flat arrays of H entries."""

    offsets: np.ndarray
    """Utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, at least one, (N + 1,)."""
    tokens: Ragged
    """The hypotheses, int16; int32 for words."""
    ctc: np.ndarray
    """Their log-likelihoods under each model, (H, predictions) float64."""
    lm: np.ndarray
    """Their log-probabilities under the language model, (H,)."""
    attention: np.ndarray
    """Their attention scores, (H,), or a text scorer's scores of sentences; zeros without either."""
    prior: np.ndarray
    """What subtracting the label prior adds to their scores, (H,); zeros if it is unknown."""
    distance: np.ndarray | None
    """Their edit distances to the reference, (H,); None without references."""
    lm_grid: Mapping[str, tuple[float, ...]] | None = None
    """The weights and bonuses to search instead of those for phonemes."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each hypothesis, (H,)."""
        return self.tokens.lengths

    def hypotheses(self, utterance: int) -> list[list[int]]:
        """The hypotheses of one utterance."""
        return self.chosen(range(self.offsets[utterance], self.offsets[utterance + 1]))

    def chosen(self, indices: Sequence[int] | np.ndarray) -> list[list[int]]:
        """The hypotheses at flat indices."""
        return [self.tokens[index].tolist() for index in indices]

    def mean_distance(self, indices: np.ndarray) -> float:
        """Mean edit distance of the hypotheses at flat indices (N,). Raises ValueError without references."""
        return float(self._known_distances[indices].mean())

    @property
    def oracle_distances(self) -> np.ndarray:
        """The distance (N,) of each utterance's best hypothesis. Raises ValueError without references."""
        return np.minimum.reduceat(self._known_distances, self.offsets[:-1])

    def take(self, rows: Sequence[int] | np.ndarray) -> Pool:
        """The pool of some utterances."""
        kept, offsets = Ragged(self.lm, self.offsets).rows_of(rows)
        distance = None if self.distance is None else self.distance[kept]
        return Pool(
            offsets,
            self.tokens.take(kept),
            self.ctc[kept],
            self.lm[kept],
            self.attention[kept],
            self.prior[kept],
            distance,
            self.lm_grid,
        )

    @property
    def _known_distances(self) -> np.ndarray:
        if self.distance is None:
            raise ValueError("the distance of a pool without references is unknown")
        return self.distance


def build_pool(
    offsets: np.ndarray,
    tokens: Ragged,
    ctc: np.ndarray,
    lm: np.ndarray,
    references: Sequence[Sequence[int]] | None,
    attention: np.ndarray | None = None,
    label_bonus: np.ndarray | None = None,
) -> Pool:
    """A pool of hypotheses sorted by tokens, with log-likelihoods `ctc` (H, predictions).

    `lm` are their `language_model_scores`, `attention` (H,) their attention scores and `label_bonus` (C,) the negative
    log prior of the labels, if available.
    """
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    distance = None if references is None else to_references(tokens, rows, Ragged.of(references, np.int16))
    attention = np.zeros(len(tokens)) if attention is None else attention
    prior = np.zeros(len(tokens)) if label_bonus is None else sum_bonuses(tokens, label_bonus)
    return Pool(offsets, tokens, floor_likelihoods(ctc, offsets), lm, attention, prior, distance)


def language_model_scores(
    offsets: np.ndarray, tokens: Ragged, language_models: Sequence[PhoneLM], outer_folds: np.ndarray
) -> np.ndarray:
    """Log-probabilities (H,) of hypotheses; those of utterance u are scored by `language_models[outer_folds[u]]`."""
    fold_of = np.repeat(np.asarray(outer_folds), np.diff(offsets))
    scores = np.zeros(len(tokens))
    for fold, model in enumerate(language_models):
        in_fold = np.flatnonzero(fold_of == fold)
        own = tokens.take(in_fold)
        scores[in_fold] = sum_tokens(model.automaton, own.values.astype(np.int64), own.lengths)
    return scores


def sum_bonuses(tokens: Ragged, bonus: np.ndarray) -> np.ndarray:
    """The sum (H,) of `bonus` (C,) over the tokens of each hypothesis."""
    return np.diff(np.concatenate([[0.0], np.cumsum(bonus[tokens.values])])[tokens.offsets])
