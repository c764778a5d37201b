"""Fusion: how the language model enters the search that proposes hypotheses, fitted for each member.

The settings are the language model's weight, the length bonus, and a bonus for each label that subtracts part of its
prior, because both the acoustic and the language model favour frequent labels. They decide which hypotheses a pool
contains; no weight that is fitted later can recover a hypothesis that was not proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.decoding.batched import sample_rows
from ensemble.decoding.decoders import DecoderSettings
from ensemble.hypotheses.first_pass import PRIOR_WEIGHTS, FirstPassTrials
from ensemble.hypotheses.pool import sum_bonuses
from ensemble.lm.ngram import PhoneLM
from ensemble.members.predictions import Predictions
from ensemble.members.sidecar import SearchSettings
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged

# Close to the best settings of single members out of fold on real speech: the start of searches, and the default for
# inputs without fitted settings. Rescoring the N-best list of a search without a language model gains a third of what
# fusion gains, because the hypotheses that the language model prefers are not in the list.
LM_WEIGHT, LENGTH_BONUS = 0.45, 1.0
# The pairs of weight and bonus to try: the larger the language model's weight, the more it shortens hypotheses. All
# outer folds share these trials; a pattern search would decode most utterances again for each fold.
GRID = (
    *((0.0, bonus) for bonus in (0.0, 0.5)),
    *((0.2, bonus) for bonus in (0.0, 0.5, 1.0)),
    *((0.35, bonus) for bonus in (0.5, 1.0, 1.5)),
    *((0.5, bonus) for bonus in (0.5, 1.0, 1.5, 2.0)),
    *((0.7, bonus) for bonus in (1.0, 1.5, 2.0)),
    *((1.0, bonus) for bonus in (2.0, 2.5, 3.0)),
)
# Number of utterances on which the settings are fitted, each decoded about 20 times.
FUSION_UTTERANCES = 200
# Floor of a label's mean posterior in its bonus: a label that a model never predicts would otherwise be proposed
# everywhere.
LOWEST_PRIOR = 1e-3


@dataclass(frozen=True)
class FusionSettings:
    """The settings of one member's search with the language model."""

    lm_weight: float = LM_WEIGHT
    length_bonus: float = LENGTH_BONUS
    token_bonus: np.ndarray | None = None
    """What each class adds to a score, (C,), besides the length bonus."""
    prior_weight: float = 0.0
    """The weight of the label prior in `token_bonus`."""

    def decoder_settings(self, lm: PhoneLM) -> DecoderSettings:
        """The arguments of a beam search with the language model `lm`."""
        return {
            "lm": lm,
            "lm_weight": self.lm_weight,
            "length_bonus": self.length_bonus,
            "token_bonus": self.token_bonus,
        }


def language_terms(
    settings: Sequence[FusionSettings], fold_of: np.ndarray, tokens: Ragged, lm: np.ndarray
) -> np.ndarray:
    """What the search with the language model adds to the scores of hypotheses, (H,).

    `settings[fold_of[h]]` are those of hypothesis h, and `lm` (H,) its log-probability under the language model.
    """
    terms = np.zeros(len(tokens))
    for fold, of_fold in enumerate(settings):
        own = np.flatnonzero(fold_of == fold)
        terms[own] = of_fold.lm_weight * lm[own] + of_fold.length_bonus * tokens.lengths[own]
        if of_fold.token_bonus is not None:
            terms[own] += sum_bonuses(tokens.take(own), of_fold.token_bonus)
    return terms


@dataclass(frozen=True, eq=False)
class Fusion:
    """The settings of every member, fitted on a sample of the out-of-fold utterances on first use.

    Settings for an outer fold are fitted without its utterances, so that nested cross-validation stays unbiased.
    """

    predictions: Sequence[Predictions]
    """The out-of-fold predictions of each member."""
    references: Sequence[Sequence[int]]
    language_models: Sequence[PhoneLM]
    """Utterance u is searched with `language_models[outer_folds[u]]`."""
    outer_folds: np.ndarray
    _trials: dict[int, FirstPassTrials] = field(default_factory=dict)

    def settings(self, member: int, held_out: int | None = None) -> FusionSettings:
        """The settings fitted on all utterances of the sample except those of the outer fold `held_out`."""
        trials = self._of_member(member)
        drawn = trials.task.outer_folds != held_out
        if not drawn.any():  # all sampled utterances are held out
            return FusionSettings()

        def loss(settings: tuple[float, ...]) -> float:
            return float(trials.distances(*settings)[drawn].mean())

        lm_weight, length_bonus = min(GRID, key=loss)
        prior_weight = min((0.0, *PRIOR_WEIGHTS), key=lambda weight: loss((lm_weight, length_bonus, weight)))
        token_bonus = prior_weight * self.label_bonus(member)
        return FusionSettings(lm_weight, length_bonus, token_bonus, prior_weight)

    def label_bonus(self, member: int) -> np.ndarray:
        """The bonus of each class that subtracts the whole prior of the member's labels, (C,)."""
        bonus = self._of_member(member).label_bonus
        assert bonus is not None  # given below
        return bonus

    def _of_member(self, member: int) -> FirstPassTrials:
        if member not in self._trials:
            rows = sample_rows(np.arange(len(self.references)), FUSION_UTTERANCES)
            log_probs = self.predictions[member].load().take(rows)
            self._trials[member] = FirstPassTrials.of(
                log_probs,
                [self.references[row] for row in rows],
                self.language_models,
                self.outer_folds[rows],
                self.predictions[member].name,
                label_bonus_of(log_probs),
            )
        return self._trials[member]


@dataclass(frozen=True, eq=False)
class RecordedFusion:
    """The settings of every member, as fitted for a blend and recorded next to its submission."""

    recorded: Sequence[SearchSettings]
    """The settings of each member."""

    def settings(self, member: int, held_out: int | None = None) -> FusionSettings:
        """The settings of a member's search; `held_out` is ignored, since nothing is fitted."""
        found = self.recorded[member]
        token_bonus = found.prior_weight * self.label_bonus(member)
        return FusionSettings(found.lm_weight, found.length_bonus, token_bonus, found.prior_weight)

    def label_bonus(self, member: int) -> np.ndarray:
        """The bonus of each class that subtracts the whole prior of the member's labels, (C,)."""
        return np.array(self.recorded[member].label_bonus)


def search_settings(fusion: Fusion, member: int) -> SearchSettings:
    """The settings of a member's search on utterances outside all outer folds, to be recorded."""
    settings = fusion.settings(member)
    label_bonus = tuple(fusion.label_bonus(member).tolist())
    return SearchSettings(settings.lm_weight, settings.length_bonus, settings.prior_weight, label_bonus)


def label_bonus_of(log_probs: LogProbs) -> np.ndarray:
    """The negative log prior of each label, (C,), from its share of the posteriors of all frames; 0 for the blank.

    A constant is added so that its mean over labels, weighted by frequency, is 0: controlling the number of labels is
    left to the length bonus. Variani et al., "Hybrid autoregressive transducer" (ICASSP 2020), subtract an internal
    language model, of which the label prior is the simplest form for CTC. If a model gives no label any probability,
    the prior is unknown and nothing is subtracted.
    """
    posteriors = np.exp(log_probs.values.astype(np.float32)).mean(axis=0, dtype=np.float64)[1:]
    if not posteriors.sum() > 0:
        return np.zeros(log_probs.classes)
    prior = np.maximum(posteriors / posteriors.sum(), LOWEST_PRIOR)
    return np.concatenate([[0.0], np.average(np.log(prior), weights=prior) - np.log(prior)])
