"""The settings of a member's word search, fitted on N-best lists of a sample of its out-of-fold utterances.

The utterances are decoded once, with default settings; language model weight and word bonus are then chosen to rank
these lists best, as in minimum error rate training (Och, "Minimum error rate training in statistical machine
translation", ACL 2003). The settings fitted for an outer fold do not use its utterances.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.decoding.batched import sample_rows
from ensemble.hypotheses.scoring import best_per_utterance
from ensemble.words.search import Vocabulary, WordSettings, word_beam_search
from folds.competition.metric import edit_distances
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged

SAMPLE = 200
"""Number of utterances that are decoded to fit the settings."""
NBEST = 100
GRID: Mapping[str, Sequence[float]] = {
    "lm_weight": (0.3, 0.5, 0.8, 1.0, 1.3, 1.7, 2.2),
    "word_bonus": (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0),
}


@dataclass(frozen=True, eq=False)
class SearchTrials:
    """Errors of each setting in the grid on the sample, `(settings, utterances)`."""

    grid: tuple[WordSettings, ...]
    errors: np.ndarray
    outer_folds: np.ndarray

    @staticmethod
    def of(
        log_probs: LogProbs,
        references: Sequence[Sequence[int]],
        outer_folds: np.ndarray,
        vocabulary: Vocabulary,
        name: str,
        start: WordSettings | None = None,
    ) -> SearchTrials:
        """Decode a sample of the utterances; `references` are their word numbers."""
        start = start or WordSettings()
        rows = sample_rows(np.arange(len(log_probs)), SAMPLE)
        utterances = [log_probs[row] for row in rows.tolist()]
        lists = word_beam_search(utterances, vocabulary, start, NBEST, f"settings of {name}")
        decoded = np.flatnonzero(np.diff(lists.offsets))
        lists, rows = lists.take(decoded), rows[decoded]
        expected = np.repeat(rows, np.diff(lists.offsets)).tolist()
        same = Ragged(vocabulary.lexicon.same_as[lists.words.values], lists.words.offsets)
        words = [same[h] for h in range(len(same))]
        distances = edit_distances(words, [references[row] for row in expected])
        grid = tuple(start._replace(lm_weight=w, word_bonus=b) for w, b in itertools.product(*GRID.values()))
        errors = np.array([distances[best_per_utterance(lists.scores(trial), lists.offsets)] for trial in grid])
        return SearchTrials(grid, errors, outer_folds[rows])

    def settings(self, held_out: int | None = None) -> WordSettings:
        """The settings with the fewest errors on the sample, without the outer fold `held_out`; ties go to the first.

        The default settings if the sample has no other utterances.
        """
        errors = self.errors[:, self.outer_folds != held_out]
        return self.grid[int(errors.sum(axis=1).argmin())] if errors.size else WordSettings()
