"""Outer folds of nested cross-validation over the training utterances, and a language model for each of them.

A language model that scores an out-of-fold utterance must not have been estimated on its transcript, nor on its
speaker's other transcripts, because one speaker reads one book. So each outer fold has a language model that is
estimated without the fold's speakers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import overload

import numpy as np

from ensemble.lm.ngram import PhoneLM, estimate
from folds.data.dataset import Dataset

# The number of outer folds when all out-of-fold predictions come from one training fold.
OUTER_FOLDS = 4


def assign_outer_folds(folds: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The outer fold of each utterance in nested cross-validation, (N,) int64 from 0, and notes for the user.

    Outer folds are the training `folds` (N,), or groups of speakers if there is only one training fold.

    >>> assign_outer_folds(np.array([3, 1, 3]), ["a", "b", "a"])[0].tolist()
    [1, 0, 1]
    """
    if len(np.unique(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1], []
    if len(set(speakers)) == 1:
        groups = min(OUTER_FOLDS, len(speakers))
        note = f"  one fold of one speaker only: nested distances are over {groups} groups of utterances"
        return np.arange(len(speakers)) % groups, [note]
    numbers = {speaker: number for number, speaker in enumerate(sorted(set(speakers)))}
    outer_folds = np.unique([numbers[speaker] % OUTER_FOLDS for speaker in speakers], return_inverse=True)[1]
    note = f"  one fold only: nested distances are over {outer_folds.max() + 1} groups of speakers instead of folds"
    return outer_folds, [note]


class LanguageModels(Sequence[PhoneLM]):
    """Phone language models, each estimated when it is used first: a report about a measured blend uses none."""

    def __init__(self, estimators: Sequence[Callable[[], PhoneLM]]) -> None:
        self._estimators = [functools.cache(estimator) for estimator in estimators]

    def __len__(self) -> int:
        return len(self._estimators)

    @overload
    def __getitem__(self, index: int) -> PhoneLM: ...
    @overload
    def __getitem__(self, index: slice) -> list[PhoneLM]: ...
    def __getitem__(self, index: int | slice) -> PhoneLM | list[PhoneLM]:
        if isinstance(index, slice):
            return [estimator() for estimator in self._estimators[index]]
        return self._estimators[index]()


def estimate_language_models(
    dataset: Dataset, ids: Sequence[str], outer_folds: np.ndarray, order: int
) -> LanguageModels:
    """A phone language model per outer fold, estimated without the transcripts of the fold's speakers.

    `ids` and `outer_folds` (N,) are those of the utterances. Where the folds divide speakers (`--fold-by utterance`),
    only the fold's utterances are left out.
    """
    train = dataset.train
    speaker_of = dict(zip(train.ids, train.groups, strict=True))
    speakers = [speaker_of[utterance] for utterance in ids]
    divided = len(set(zip(speakers, outer_folds.tolist(), strict=True))) > len(set(speakers))
    units = np.asarray(ids if divided else speakers)
    held_out = [set(units[outer_folds == fold].tolist()) for fold in range(outer_folds.max() + 1)]
    return LanguageModels([functools.partial(estimate_language_model, dataset, order, without) for without in held_out])


def estimate_language_model(dataset: Dataset, order: int, without: Collection[str] = ()) -> PhoneLM:
    """A phone language model of the training transcripts, but for those of the speakers or utterances `without`."""
    train = dataset.train
    units = enumerate(zip(train.ids, train.groups, strict=True))
    rows = [row for row, (utterance, speaker) in units if speaker not in without and utterance not in without]
    return estimate([train.labels(row).tolist() for row in rows], dataset.alphabet.classes, order)
