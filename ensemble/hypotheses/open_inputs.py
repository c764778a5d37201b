"""Open blend inputs: members' predictions of out-of-fold, dev and test utterances, references and language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ensemble.hypotheses.attention_scores import SCORED_HYPOTHESES, attention_scorer
from ensemble.hypotheses.blend_inputs import BlendInputs, SplitPredictions
from ensemble.hypotheses.nested_folds import assign_outer_folds, estimate_language_model, estimate_language_models
from ensemble.lm.ngram import PhoneLM
from ensemble.members.eligibility import Rules, filter_by_rules, minimum_parameters
from ensemble.members.member import Member
from ensemble.members.out_of_fold import OutOfFold, common_oof
from ensemble.members.predictions import Predictions, fold_predictions, mean_predictions, oof_predictions
from folds.data.dataset import Dataset, Split
from registry import InputError
from registry.console import track


@dataclass(frozen=True)
class InputOptions:
    """How blend inputs are made."""

    nbest: int = 100
    """Number of hypotheses that each model proposes per utterance."""
    pool: int = 200
    """Maximum number of hypotheses per pool (the union of all members' N-best lists for one utterance)."""
    fold_mean: Literal["sequence", "frames"] = "sequence"
    """How a member's fold models are combined on dev and test: sequence scores and votes over all fold models'
    hypotheses; frames averages their posteriors per frame (needs equal strides)."""
    lm_order: int = 5
    """Order of the phone language model, the length of its longest n-grams."""
    fit_limit: int | None = 4000
    """Maximum number of out-of-fold utterances used to fit the weights; None for all."""
    seed: int = 0
    """Seed that decides ties between members, and which utterances `--fit-limit` keeps."""

    def __post_init__(self) -> None:
        for name, least in (("nbest", 1), ("pool", 1), ("lm_order", 1), ("fit_limit", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")

    @property
    def frames(self) -> bool:
        """Whether a member's fold models are averaged per frame, so that they are used together or not at all."""
        return self.fold_mean == "frames"


@dataclass(frozen=True)
class OpenedInputs:
    """Blend inputs of the three splits, for the `members` that meet the `rules`, and `notes` for the user."""

    members: list[Member]
    oof: BlendInputs
    dev: BlendInputs
    test: BlendInputs
    options: InputOptions
    rules: Rules
    notes: list[str]

    def check(self) -> None:
        """Read all predictions once. Raises InputError for one that is missing or faulty, before anything is fitted."""
        splits = (self.oof.split, self.dev.split, self.test.split)
        for predictions in track([p for split in splits for p in split.predictions], "checking predictions"):
            predictions.load()


def open_inputs(
    members: Sequence[Member], dataset: Dataset, options: InputOptions | None = None, rules: Rules | None = None
) -> OpenedInputs:
    """Blend inputs from members and the data that they were trained on; predictions are read when they are used.

    Members outside the rules are left out with a note. Raises InputError for members that do not fit together or do
    not fit the data, and when no member meets the rules.
    """
    options, rules = options or InputOptions(), rules or Rules()
    members, notes = filter_by_rules(sorted(members, key=lambda member: member.name), rules, options.frames)
    oof_split, oof_notes = _open_oof(members, dataset, options, rules)
    language_model = estimate_language_model(dataset, options.lm_order)
    dev_split, test_split = (
        _open_split(members, split, dataset, language_model, options) for split in (dataset.dev, dataset.test)
    )
    nbest_size = min(options.nbest, options.pool)
    oof, dev, test = (BlendInputs(split, nbest_size, options.pool) for split in (oof_split, dev_split, test_split))
    notes += oof_notes
    for member in members:
        notes += _member_notes(member, options)
    return OpenedInputs(members, oof, dev, test, options, rules, notes)


def _open_oof(
    members: Sequence[Member], dataset: Dataset, options: InputOptions, rules: Rules
) -> tuple[SplitPredictions, list[str]]:
    """Out-of-fold predictions, one entry per member, and notes."""
    train = dataset.train
    common = _limit_utterances(common_oof(members, train.ids), options)
    row_of = {utterance: row for row, utterance in enumerate(train.ids)}
    rows = [row_of[utterance] for utterance in common.ids]
    train_speakers = train.speakers
    speakers = [train_speakers[row] for row in rows]
    outer_folds, fold_notes = assign_outer_folds(common.folds, speakers)
    predictions = [
        replace(
            oof_predictions(member, index, common.ids, dataset.alphabet.hash),
            attention_scorer=attention_scorer(member.fold_models, "oof", train),
        )
        for index, member in enumerate(members)
    ]
    split = SplitPredictions(
        name="oof",
        names=tuple(member.name for member in members),
        predictions=tuple(predictions),
        ids=tuple(common.ids),
        classes=dataset.alphabet.classes,
        outer_folds=outer_folds,
        language_models=estimate_language_models(dataset, speakers, outer_folds, options.lm_order),
        references=tuple(train.labels(row).tolist() for row in rows),
        parameters=minimum_parameters(members, options.frames),
        max_params=rules.max_params,
    )
    return split, [*common.notes, *fold_notes]


def _limit_utterances(common: OutOfFold, options: InputOptions) -> OutOfFold:
    """At most `fit_limit` of the utterances, drawn by the seed."""
    limit = options.fit_limit
    if limit is None or len(common.ids) <= limit:
        return common
    kept = np.sort(np.random.default_rng(options.seed).choice(len(common.ids), limit, replace=False))
    note = f"  weights are fitted on {limit} of them, drawn with seed {options.seed} (--fit-limit)"
    return OutOfFold([common.ids[row] for row in kept], common.folds[kept], [*common.notes, note])


def _open_split(
    members: Sequence[Member], split: Split, dataset: Dataset, language_model: PhoneLM, options: InputOptions
) -> SplitPredictions:
    """Predictions of dev or test, one entry per fold model, or one per member if frames are averaged."""
    predictions: list[Predictions] = []
    for index, member in enumerate(members):
        if options.frames:
            mean = mean_predictions(member, index, split.name, split.ids, dataset.alphabet.hash)
            scorer = attention_scorer(member.fold_models, split.name, split)
            predictions.append(replace(mean, attention_scorer=scorer))
            continue
        by_fold = fold_predictions(member, index, split.name, split.ids, dataset.alphabet.hash)
        for fold_model, predictions_of_fold in zip(member.fold_models, by_fold, strict=True):
            scorer = attention_scorer([fold_model], split.name, split)
            predictions.append(replace(predictions_of_fold, attention_scorer=scorer))
    has_transcripts = split.tokens is not None
    return SplitPredictions(
        name=split.name,
        names=tuple(member.name for member in members),
        predictions=tuple(predictions),
        ids=split.ids,
        classes=dataset.alphabet.classes,
        outer_folds=np.zeros(len(split), np.int64),
        language_models=(language_model,),
        references=tuple(split.labels(row).tolist() for row in range(len(split))) if has_transcripts else None,
    )


def _member_notes(member: Member, options: InputOptions) -> list[str]:
    notes = []
    selected = [str(model.fold) for model in member.fold_models if model.config.get("select") == "best"]
    if selected:
        notes.append(
            f"  {member.name}, fold {', '.join(selected)}: its epoch was chosen on the held-out fold (--select best), "
            "so its out-of-fold distance is too low, and its weight too high"
        )
    count = len(member.fold_models)
    if count == 1:
        notes.append(f"dev and test: {member.describe()} is one fold model")
    else:
        how = "their probabilities averaged frame by frame" if options.frames else "combined as hypotheses"
        notes.append(f"dev and test: {member.describe()} is {count} fold models, {how}")
    if all(fold_model.has_attention_scores for fold_model in member.fold_models):
        what = f"the {SCORED_HYPOTHESES} most likely hypotheses of each pool"
        notes.append(f"  the attention decoder of {member.name} scores {what}")
    return notes
