"""Text scorers: log-probabilities of whole sentences under the user's own model, such as a neural language model.

This package includes none. A scorer is a function, registered under a name or provided by an installed package in the
entry-point group `hw3p2_text_scorers`:

    [options.entry_points]
    hw3p2_text_scorers =
        my_model = my_package:score
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from folds.store.ragged import Ragged
from registry import InputError, Registry

TextScorer = Callable[[Sequence[str]], Sequence[float]]
"""Maps sentences to their log-probabilities, one each, as natural logarithms."""

TEXT_SCORERS: Registry[TextScorer] = Registry("text_scorers")


def score_texts(name: str, sentences: Ragged, words: Sequence[str]) -> np.ndarray:
    """log P `(H,)` of sentences under the scorer `name`; each distinct sentence is scored once.

    `words` are the words by number. Raises InputError for an unknown scorer, and for one that does not return a finite
    number per sentence.
    """
    texts = [" ".join([words[number] for number in sentences[h]]) for h in range(len(sentences))]
    distinct = list(dict.fromkeys(texts))
    with TEXT_SCORERS.using(name):
        values = np.asarray(TEXT_SCORERS.get(name)(distinct), np.float64)
    if values.shape != (len(distinct),) or not np.isfinite(values).all():
        raise InputError(
            f"text scorer {name}: returned values of shape {values.shape} for {len(distinct)} texts; expected a finite "
            "number each"
        )
    row_of = {text: row for row, text in enumerate(distinct)}
    return values[[row_of[text] for text in texts]]
