"""First-pass decoding: beam search with language-model fusion, with fitted LM weight and length bonus.

This is what one model achieves alone, and what a blend has to improve on. Rescoring a model's N-best lists with the
weights that suit them best is close, but not as good: 4.66 against 4.57 out of fold for `gru_small` on the demo,
because the lists were searched with other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.beam.search import beam_search
from ensemble.decoding.batched import DecodingTask, decode_in_batches, sample_rows
from ensemble.fitting.settings import coordinate_search, pattern_search
from ensemble.lm.ngram import PhoneLM
from folds.store.log_probs import LogProbs

BEAM = 50
"""Beam as in `ensemble.decode`; with 20, distances are 2 to 3 % higher on the demo."""
TUNING_UTTERANCES = 400
"""A search decodes this many utterances 30 to 40 times; more would only take longer, since neighbouring settings differ
by less than the sampling noise."""

PRIOR_WEIGHTS = (0.2, 0.4, 0.6)
"""Weights of the label prior to try, besides 0."""


def decode_first_pass(
    log_probs: LogProbs,
    language_models: Sequence[PhoneLM],
    outer_folds: np.ndarray,
    settings: Mapping[str, float],
    description: str,
    label_bonus: np.ndarray | None = None,
) -> list[list[int]]:
    """The best hypothesis of every utterance with the settings `lm_weight`, `length_bonus` and maybe `prior_weight`.

    Utterance `u` is searched with `language_models[outer_folds[u]]`. `label_bonus` (C,) is for a prior weight of 1.
    """
    task = DecodingTask(log_probs, None, outer_folds, dict(enumerate(language_models)))
    result = decode_in_batches(
        task,
        beam_search,
        f"first pass, {description}",
        beam=BEAM,
        lm_weight=settings["lm_weight"],
        length_bonus=settings["length_bonus"],
        token_bonus=None if label_bonus is None else settings.get("prior_weight", 0.0) * label_bonus,
    )
    return [list(nbest[0].tokens) for nbest in result.hypotheses]


@dataclass(frozen=True, eq=False)
class FirstPassTrials:
    """The first pass of one prediction with the settings tried so far, for a search over settings.

    The utterances are those of the whole split, or a sample of them, so that the fits of nested cross-validation share
    their trials.
    """

    task: DecodingTask
    rows: np.ndarray
    """Rows of the split that the task decodes, sorted."""
    name: str
    label_bonus: np.ndarray | None = None
    """The bonus of each class at a prior weight of 1, (C,); None if the prior weight is not searched."""
    _distances: dict[tuple[float, float, float], np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of(
        log_probs: LogProbs,
        references: Sequence[Sequence[int]],
        language_models: Sequence[PhoneLM],
        outer_folds: np.ndarray,
        name: str,
        label_bonus: np.ndarray | None = None,
    ) -> FirstPassTrials:
        """Trials on at most TUNING_UTTERANCES of N utterances, sampled with a fixed seed; `name` is for progress bars.

        Utterance `u` is searched with `language_models[outer_folds[u]]`.
        """
        rows = sample_rows(np.arange(len(log_probs)), TUNING_UTTERANCES)
        drawn = [list(references[row]) for row in rows]
        task = DecodingTask(log_probs.take(rows), drawn, outer_folds[rows], dict(enumerate(language_models)))
        return FirstPassTrials(task, rows, name, label_bonus)

    def distances(self, lm_weight: float, length_bonus: float, prior_weight: float = 0.0) -> np.ndarray:
        """Edit distance of each utterance in `rows`."""
        settings = (lm_weight, length_bonus, prior_weight)
        if settings not in self._distances:
            result = decode_in_batches(
                self.task,
                beam_search,
                f"tuning {self.name}",
                beam=BEAM,
                lm_weight=lm_weight,
                length_bonus=length_bonus,
                token_bonus=None if self.label_bonus is None else prior_weight * self.label_bonus,
            )
            assert self.task.references is not None  # `of` gives them
            self._distances[settings] = result.distances(self.task.references)
        return self._distances[settings]

    def fit(self, rows: np.ndarray, start: tuple[float, float]) -> tuple[dict[str, float], float]:
        """The settings with the lowest mean distance on the sampled ones of the split's `rows`, and that distance.

        The pattern search starts at `start` (LM weight, length bonus), or without a language model if that is better.
        Then the weight of the label prior is searched, if there is a `label_bonus`. If none of the `rows` was sampled,
        the settings are `start`, and the distance is infinite.
        """
        drawn = np.isin(self.rows, rows)
        if not drawn.any():
            prior = {} if self.label_bonus is None else {"prior_weight": 0.0}
            return {"lm_weight": start[0], "length_bonus": start[1]} | prior, np.inf

        def loss(lm_weight: float, length_bonus: float, prior_weight: float = 0.0) -> float:
            return float(self.distances(lm_weight, length_bonus, prior_weight)[drawn].mean())

        first = min([start, (0.0, 0.0)], key=lambda point: loss(*point))
        lm_weight, length_bonus = pattern_search(loss, *first)
        settings = {"lm_weight": lm_weight, "length_bonus": length_bonus}
        if self.label_bonus is None:
            return settings, loss(**settings)
        grid = {"prior_weight": PRIOR_WEIGHTS}
        return coordinate_search(lambda trial: loss(**trial), settings | {"prior_weight": 0.0}, grid, rounds=1)
