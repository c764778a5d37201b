"""Phone language models for decoding: estimated from the training transcripts, or read from an ARPA file.

A language model that scores an out-of-fold utterance must not have been estimated on its transcript. `ensemble.decode`
leaves out the utterance's fold. A blend leaves out the speakers of its outer fold, which may be a part of the only fold
that all members held out: each speaker reads one book, so the speaker's other transcripts would leak information.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import overload

import numpy as np

from ensemble.decoding.batched import sample_rows
from ensemble.lm.arpa import read_arpa
from ensemble.lm.ngram import PhoneLM, estimate, estimate_folds
from folds.data.dataset import Dataset, Split
from registry.errors import InputError

_SEEN = 0.85
"""A model has seen the training transcripts if its perplexity on them is below this fraction of that on dev. On real
speech, a model that has seen neither has equal perplexities on both."""
_MEASURED = 1000
"""Maximum number of utterances per split for measuring perplexity."""


def transcripts_of(split: Split, limit: int | None = None) -> list[np.ndarray]:
    """The labels of a split's utterances, or of at most `limit` of them, sampled with a fixed seed."""
    return [split.labels(row) for row in sample_rows(np.arange(len(split)), limit).tolist()]


def load_language_models(
    dataset: Dataset, source: str, order: int, outer_folds: np.ndarray, train_folds: np.ndarray | None
) -> Mapping[int, PhoneLM | None]:
    """The language model of each fold in `outer_folds` `(N,)`, the folds of the utterances to decode.

    `source` is `none`: no models; `train`: models of this order, estimated from the training transcripts outside each
    fold; or an ARPA file. `train_folds` are the folds of all training utterances. Without them, on dev and test, a
    single model is estimated from all training transcripts. Raises InputError for a file that cannot be read and, with
    `train_folds`, for a model that has seen the training transcripts: all out-of-fold distances would be too low.
    """
    if source == "none":
        return dict.fromkeys(np.unique(outer_folds).tolist())
    if source != "train":
        model = read_arpa(source, dataset.alphabet.phonemes)
        if train_folds is not None:
            _check_unseen(model, source, dataset)
        return dict.fromkeys(np.unique(outer_folds).tolist(), model)
    if train_folds is None:
        return {0: estimate(transcripts_of(dataset.train), dataset.alphabet.classes, order)}
    return estimate_folds(transcripts_of(dataset.train), train_folds, dataset.alphabet.classes, order)


def _check_unseen(model: PhoneLM, source: str, dataset: Dataset) -> None:
    train, dev = (model.perplexity(transcripts_of(split, _MEASURED)) for split in (dataset.train, dataset.dev))
    if train < _SEEN * dev:
        raise InputError(
            f"--lm {source}: was estimated from the training transcripts (perplexity {train:.2f} on them, {dev:.2f} on "
            "dev), so out-of-fold distances would be too low: tune with --lm train --tune --split oof, then pass this "
            "file with the resulting --lm-weight and --length-bonus"
        )


class LanguageModels(Sequence[PhoneLM]):
    """Phone language models, each estimated on first use: a report on a measured blend uses none."""

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

    `ids` and `outer_folds` (N,) belong to the out-of-fold utterances. If folds split speakers (`--fold-by utterance`),
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
    """A phone language model of the training transcripts, except those of the speakers or utterances in `without`."""
    train = dataset.train
    units = enumerate(zip(train.ids, train.groups, strict=True))
    rows = [row for row, (utterance, speaker) in units if speaker not in without and utterance not in without]
    return estimate([train.labels(row).tolist() for row in rows], dataset.alphabet.classes, order)
