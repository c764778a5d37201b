"""Open blend inputs: members' predictions of out-of-fold, dev and test utterances, references and language models."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ensemble.decoding.language_models import LanguageModels, estimate_language_model, estimate_language_models
from ensemble.hypotheses.attention_scores import SCORED_HYPOTHESES, attention_scorer, can_score
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.fusion import Fusion
from ensemble.hypotheses.nested_folds import assign_outer_folds
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.lm.ngram import DEFAULT_ORDER, MAX_ORDER
from ensemble.members.eligibility import (
    filter_by_rules,
    first_with_networks,
    keep_within_max_params,
    minimum_parameters,
    notes_on_twins,
)
from ensemble.members.member import Member, Networks
from ensemble.members.out_of_fold import OutOfFold, common_oof
from ensemble.members.predictions import Predictions, mean_predictions, network_predictions, oof_predictions
from folds.competition.base import Rules
from folds.data.dataset import Dataset, Split
from registry import InputError
from registry.bounds import MAX_SEED, MAX_UTTERANCES, Bounded, number
from registry.console import track


@dataclass(frozen=True)
class InputOptions(Bounded):
    """How blend inputs are built."""

    nbest: int = number(200, at_least=1, at_most=10_000, scale="log")
    """Number of hypotheses that each model proposes per utterance; at most --pool."""
    pool: int = number(200, at_least=1, at_most=10_000, scale="log")
    """Maximum number of hypotheses per utterance's pool: the best of twice as many from all members' N-best lists,
    after every member has scored them."""
    networks: Networks = "both"
    """Networks that predict dev and test: folds, each member's fold models; refits, its refit on all training data
    (folds.train --folds 1) if there is one; or both. Weights and settings always come from the fold models' out-of-fold
    predictions. With --max-params, both keeps refits first, then the fold models that the limit allows."""
    fold_mean: Literal["sequence", "frames"] = "sequence"
    """How to combine a member's networks on dev and test: sequence scores and votes over the hypotheses of all
    networks; frames averages their posteriors per frame (needs equal strides)."""
    lm_order: int = number(DEFAULT_ORDER, at_least=1, at_most=MAX_ORDER)
    """Order of the phone language model: the length of its longest n-grams."""
    fit_limit: int | None = number(4000, at_least=2, at_most=MAX_UTTERANCES, scale="log")
    """Maximum number of out-of-fold utterances used to fit the weights; None for all."""
    seed: int = number(0, at_least=0, at_most=MAX_SEED)
    """Seed for breaking ties between members, and for the utterances that --fit-limit keeps."""

    @property
    def averages_frames(self) -> bool:
        """Whether a member's networks are averaged per frame, so that they are used together or not at all."""
        return self.fold_mean == "frames"


@dataclass(frozen=True)
class OpenedInputs:
    """Blend inputs of the three splits, for the `members` that meet the `rules`, and `notes` for the user."""

    members: list[Member]
    oof: BlendInputs
    dev: BlendInputs
    test: BlendInputs
    fusion: Fusion
    """The settings of the members' searches, by index in `oof.names`."""
    options: InputOptions
    rules: Rules
    notes: list[str]
    dev_groups: Sequence[str] | None
    """The group of each dev utterance, its speaker or whatever `grouped_by` says; None if the data name none."""
    grouped_by: str = "speaker"

    @property
    def choices(self) -> tuple[Networks, ...]:
        """The choices of networks to compare on dev; only that of the options if the members have no others."""
        if not any(member.refit for member in self.members):
            return ("folds",)
        if self.options.averages_frames:
            return (self.options.networks,)
        kinds: tuple[Networks, ...] = ("folds", "refits", "both")
        return tuple(networks for networks in kinds if networks == "both" or self._allowed(networks))

    def _allowed(self, networks: Networks) -> bool:
        """Whether the rules allow these networks: no member is larger than was counted when fitting."""
        if self.rules.max_params is None:
            return True
        least = minimum_parameters([member.using(networks) for member in self.members])
        counted = minimum_parameters([_counted(member, self.options) for member in self.members])
        return all(own <= allowed for own, allowed in zip(least, counted, strict=True))

    @property
    def networks(self) -> Networks:
        """The networks that predict test."""
        return self.options.networks if self.options.networks in self.choices else self.choices[0]

    def keep(self, weights: Mapping[str, float], networks: Networks) -> list[Member]:
        """The members with weight, each with those of its `networks` that the rules allow."""
        # Networks whose frames are averaged are used together, so all of them were counted when fitting.
        max_params = None if self.options.averages_frames else self.rules.max_params
        return keep_within_max_params([member.using(networks) for member in self.members], weights, max_params)

    def oof_without_limit(self, dataset: Dataset) -> BlendInputs:
        """Out-of-fold inputs for all utterances, searched with the settings fitted on those of `oof`."""
        split, _ = _open_oof(self.members, dataset, replace(self.options, fit_limit=None), self.rules)
        if len(split.ids) == len(self.oof.split.ids):
            return self.oof
        return self.oof.with_split(split)

    def check(self) -> None:
        """Read all predictions once. Raises InputError for one that is missing or faulty, before anything is fitted."""
        splits = (self.oof.split, self.dev.split, self.test.split)
        for predictions in track([p for split in splits for p in split.predictions], "checking predictions"):
            predictions.load()


def open_inputs(
    members: Sequence[Member], dataset: Dataset, options: InputOptions | None = None, rules: Rules | None = None
) -> OpenedInputs:
    """Blend inputs from members and the data that they were trained on; predictions are read lazily.

    Members that violate the rules are left out with a note. Raises InputError for members that do not match each other
    or the data, if no member meets the rules, and for `refits` if no member has one.
    """
    if not all(isinstance(member, Member) for member in members):
        raise InputError("open_inputs: expected members: pass the first value that members_of(fold_models) returns")
    options, rules = options or InputOptions(), rules or Rules()
    rules = rules.completed(dataset.competition.rules)
    if options.networks == "refits" and not any(member.refit for member in members):
        raise InputError("--networks refits: no member has a refit: train one with python -m folds.train --folds 1")
    members = sorted(members, key=lambda member: member.name)
    kept, notes = filter_by_rules([_counted(member, options) for member in members], rules, options.averages_frames)
    names = {member.name for member in kept}
    members = [member for member in members if member.name in names]
    oof_split, oof_notes = _open_oof(members, dataset, options, rules)
    of_all = LanguageModels([functools.partial(estimate_language_model, dataset, options.lm_order)])
    dev_split, test_split = (
        _open_split(members, split, dataset, of_all, options) for split in (dataset.dev, dataset.test)
    )
    nbest_size = min(options.nbest, options.pool)
    references = oof_split.references
    assert references is not None  # training utterances have transcripts
    fusion = Fusion(oof_split.predictions, references, oof_split.language_models, oof_split.outer_folds)
    oof, dev, test = (
        BlendInputs(split, nbest_size, options.pool, fusion) for split in (oof_split, dev_split, test_split)
    )
    notes += oof_notes
    if nbest_size < options.nbest:
        notes.append(f"each model proposes {nbest_size} hypotheses, not --nbest {options.nbest}: --pool keeps no more")
    notes += notes_on_twins([member.using(options.networks) for member in members])
    for member in members:
        notes += _member_notes(member, options, dataset.hash, dataset.in_words)
    groups, grouped_by = dataset.dev.named_groups, dataset.dev.grouped_by
    return OpenedInputs(members, oof, dev, test, fusion, options, rules, notes, groups, grouped_by)


def _counted(member: Member, options: InputOptions) -> Member:
    """The member with the networks that count for the rules: those averaged together, or all that may be used."""
    return member.using(options.networks) if options.averages_frames or options.networks != "both" else member


def _open_oof(
    members: Sequence[Member], dataset: Dataset, options: InputOptions, rules: Rules
) -> tuple[SplitPredictions, list[str]]:
    """Out-of-fold predictions, one entry per member, and notes."""
    train = dataset.train
    everything = common_oof(members, train.ids)
    # Assigned before utterances are sampled, so that an outer fold has the same speakers regardless of the limit.
    groups = [train.groups[train.row_of[utterance]] for utterance in everything.ids]
    all_outer_folds, fold_notes = assign_outer_folds(everything.folds, groups)
    common, outer_folds = _limit_utterances(everything, all_outer_folds, options)
    rows = [train.row_of[utterance] for utterance in common.ids]
    predictions = [
        replace(
            oof_predictions(member, index, common.ids, dataset.alphabet.hash, train.frame_counts),
            attention_scorer=attention_scorer(member.fold_models, "oof", train, dataset.hash),
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
        language_models=estimate_language_models(dataset, common.ids, outer_folds, options.lm_order),
        references=tuple(train.labels(row).tolist() for row in rows),
        parameters=minimum_parameters([_counted(member, options) for member in members], options.averages_frames),
        max_params=rules.max_params,
        same_networks=first_with_networks([member.using(options.networks) for member in members]),
        groups=tuple(train.groups[row] for row in rows),
    )
    return split, [*common.notes, *fold_notes]


def _limit_utterances(
    common: OutOfFold, outer_folds: np.ndarray, options: InputOptions
) -> tuple[OutOfFold, np.ndarray]:
    """At most `fit_limit` of the utterances, sampled with the seed, and their outer folds.

    Raises InputError if they are all in one outer fold: nested cross-validation would have nothing to fit on.
    """
    limit = options.fit_limit
    if limit is None or len(common.ids) <= limit:
        return common, outer_folds
    kept = np.sort(np.random.default_rng(options.seed).choice(len(common.ids), limit, replace=False))
    if len(np.unique(outer_folds[kept])) == 1:
        raise InputError(
            f"--fit-limit {limit}: all utterances drawn are in one outer fold, and nested cross-validation needs two: "
            "raise the limit"
        )
    note = f"  weights are fitted on {limit} of them, drawn with seed {options.seed} (--fit-limit)"
    limited = OutOfFold([common.ids[row] for row in kept], common.folds[kept], [*common.notes, note])
    return limited, outer_folds[kept]


def _open_split(
    members: Sequence[Member], split: Split, dataset: Dataset, language_models: LanguageModels, options: InputOptions
) -> SplitPredictions:
    """Predictions of dev or test, one entry per network, or one per member if frames are averaged."""
    predictions: list[Predictions] = []
    alphabet = dataset.alphabet.hash
    for index, member in enumerate(members):
        if options.averages_frames:
            averaged = member.using(options.networks)
            mean = mean_predictions(averaged, index, split.name, split.ids, alphabet, split.frame_counts)
            scorer = attention_scorer(averaged.networks, split.name, split, dataset.hash)
            predictions.append(replace(mean, attention_scorer=scorer))
            continue
        by_network = network_predictions(member, index, split.name, split.ids, alphabet, split.frame_counts)
        for network, network_prediction in zip(member.networks, by_network, strict=True):
            scorer = attention_scorer([network], split.name, split, dataset.hash)
            predictions.append(replace(network_prediction, attention_scorer=scorer))
    has_transcripts = split.tokens is not None
    return SplitPredictions(
        name=split.name,
        names=tuple(member.name for member in members),
        predictions=tuple(predictions),
        ids=split.ids,
        classes=dataset.alphabet.classes,
        outer_folds=np.zeros(len(split), np.int64),
        language_models=language_models,
        references=tuple(split.labels(row).tolist() for row in range(len(split))) if has_transcripts else None,
    )


def _member_notes(member: Member, options: InputOptions, data: str, in_words: bool) -> list[str]:
    notes = []
    selected = [str(model.fold) for model in member.fold_models if model.config.select == "best"]
    if selected:
        notes.append(
            f"  {member.name}, fold {', '.join(selected)}: its epoch was chosen on the held-out fold (--select best), "
            "so its out-of-fold distance is too low, and its weight too high"
        )
    count, refit = len(member.fold_models), " and a refit" if member.refit else ""
    how = "their probabilities averaged frame by frame" if options.averages_frames else "combined as hypotheses"
    models = "one fold model" if count == 1 else f"{count} fold models"
    notes.append(f"dev and test: {member.describe()} is {models}{refit}" + (f", {how}" if count > 1 or refit else ""))
    if in_words and any(network.has_attention_scores for network in member.networks):
        notes.append(f"  the attention decoder of {member.name} is not used: it scores phonemes, not sentences")
    elif can_score(member.networks, data):
        what = f"the {SCORED_HYPOTHESES} most likely hypotheses of each pool"
        notes.append(f"  the attention decoder of {member.name} scores {what}")
    elif all(network.has_attention_scores for network in member.networks):
        why = "it was trained on different data, or with a different --smooth"
        notes.append(f"  the attention decoder of {member.name} is not used: {why}")
    return notes
