"""A decoder's inputs for one member: predictions for one split, references, and each utterance's language model."""

from __future__ import annotations

import numpy as np

from ensemble.decoding.batched import DecodingTask, sample_rows
from ensemble.decoding.language_models import load_language_models
from ensemble.members.member import Member
from ensemble.members.out_of_fold import oof_folds
from ensemble.members.predictions import mean_predictions, oof_predictions
from folds.data.dataset import Dataset
from registry.errors import InputError


def open_decoding_task(
    member: Member, split: str, dataset: Dataset, lm: str, lm_order: int, limit: int | None = None
) -> DecodingTask:
    """The split "oof", "dev" or "test", or `limit` of its utterances, sampled with a fixed seed.

    On dev and test, the posteriors of the member's networks are averaged. `lm` and `lm_order` are the source and the
    order of `load_language_models`. Raises InputError for "oof" if the member holds nothing out or was trained on other
    data.
    """
    if split == "oof":
        return _open_oof(member, dataset, lm, lm_order, limit)
    source = dataset.split(split)
    rows = sample_rows(np.arange(len(source)), limit)
    outer_folds = np.zeros(len(rows), np.int64)
    predictions = mean_predictions(member, 0, split, source.ids, dataset.alphabet.hash, source.frame_counts)
    return DecodingTask(
        log_probs=predictions.load().take(rows),
        references=None if source.tokens is None else [source.labels(row).tolist() for row in rows],
        outer_folds=outer_folds,
        language_models=load_language_models(dataset, lm, lm_order, outer_folds, None),
    )


def _open_oof(member: Member, dataset: Dataset, lm: str, lm_order: int, limit: int | None) -> DecodingTask:
    fold_of = oof_folds(member)
    if not fold_of:
        raise InputError(
            f"member {member.name} was trained on all utterances, so it has no out-of-fold predictions: tune the same "
            "model's folds and pass the resulting --lm-weight and --length-bonus here"
        )
    train = dataset.train
    rows = np.array([row for row, utterance in enumerate(train.ids) if utterance in fold_of], np.int64)
    if len(rows) < len(fold_of):
        raise InputError(f"member {member.name}: was trained on different data; leave it out with --members")
    rows = sample_rows(rows, limit)
    ids = [train.ids[row] for row in rows]
    outer_folds = np.array([fold_of[utterance] for utterance in ids], np.int64)
    train_folds = np.array([fold_of.get(utterance, -1) for utterance in train.ids])
    return DecodingTask(
        log_probs=oof_predictions(member, 0, ids, dataset.alphabet.hash, train.frame_counts).load(),
        references=[train.labels(row).tolist() for row in rows],
        outer_folds=outer_folds,
        language_models=load_language_models(dataset, lm, lm_order, outer_folds, train_folds),
    )
