"""Opens the evidence of each split: members' streams, the data's references, language models that have not peeked.

A language model is estimated on training transcripts. What scores an out-of-fold utterance must not have read it, nor
its speaker's other transcripts (one speaker reads one book): each part gets a model of its own. It combines nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.hypotheses.attention_scores import SCORED_STRINGS, attention_scorer
from ensemble.hypotheses.blend_inputs import SplitPredictions
from ensemble.lm.ngram import PhoneLM, estimate
from ensemble.members.member import Member, common_oof
from ensemble.members.predictions import fold_predictions, mean_predictions, oof_predictions
from folds.data.dataset import Dataset, Split

# How a nested fit is cut when all out-of-fold predictions come from one fold.
SPEAKER_PARTS = 4


@dataclass(frozen=True)
class OpenedInputs:
    """The panels by split, and what there is to say about what they cover."""

    splits: dict[str, SplitPredictions]
    notes: list[str]


def open_inputs(
    groups: Sequence[Member],
    dataset: Dataset,
    lm_order: int = 5,
    limit: int | None = None,
    seed: int = 0,
    costs: tuple[int, ...] | None = None,
    budget: int | None = None,
    fold_mean: str = "sequence",
) -> OpenedInputs:
    """Panels of oof, dev and test. `limit` bounds the out-of-fold utterances a fit sees, drawn by `seed`.

    `fold_mean` tells what becomes of a member's fold models on dev and test: "sequence" keeps each as a stream, to be
    combined as strings; "frames" averages their probabilities into one stream first.
    """
    groups = sorted(groups, key=lambda group: group.name)
    names = tuple(group.name for group in groups)
    alphabet, classes = dataset.alphabet.hash, dataset.alphabet.classes
    ids, folds, notes = common_oof(groups, dataset.train.ids)
    if limit is not None and len(ids) > limit:
        keep = np.sort(np.random.default_rng(seed).choice(len(ids), limit, replace=False))
        notes.append(f"  weights are fitted on {limit} of them, drawn with seed {seed} (--fit-limit)")
        ids, folds = [ids[i] for i in keep], folds[keep]
    row_of = {name: row for row, name in enumerate(dataset.train.ids)}
    rows = [row_of[name] for name in ids]
    parts, told = _parts(folds, [dataset.train.speakers[row] for row in rows])
    notes += told
    languages = [_language(dataset, classes, lm_order, rows, parts == part) for part in range(parts.max() + 1)]
    splits = {
        "oof": SplitPredictions(
            name="oof",
            names=names,
            predictions=tuple(
                replace(oof_predictions(group, i, ids, alphabet), spell=attention_scorer(group.members, "oof", dataset.train))
                for i, group in enumerate(groups)
            ),
            ids=tuple(ids),
            classes=classes,
            parts=parts,
            languages=tuple(languages),
            references=tuple(dataset.train.labels(row).tolist() for row in rows),
            costs=costs,
            budget=budget,
        )
    }
    whole = _language(dataset, classes, lm_order, [], np.zeros(0, bool))
    for split in (dataset.dev, dataset.test):
        predictions = []
        for i, group in enumerate(groups):
            if fold_mean == "frames":
                mean = mean_predictions(group, i, split.name, split.ids, alphabet)
                predictions.append(replace(mean, spell=attention_scorer(group.members, split.name, split)))
                continue
            each = fold_predictions(group, i, split.name, split.ids, alphabet)
            predictions += [
                replace(stream, spell=attention_scorer([member], split.name, split))
                for stream, member in zip(each, group.members, strict=True)
            ]
        splits[split.name] = SplitPredictions(
            name=split.name,
            names=names,
            predictions=tuple(predictions),
            ids=split.ids,
            classes=classes,
            parts=np.zeros(len(split), np.int64),
            languages=(whole,),
            references=_references(split),
        )
    for group in groups:
        flattered = [str(member.fold) for member in group.members if member.config.get("select") == "best"]
        if flattered:
            notes.append(
                f"  {group.name}, fold {', '.join(flattered)}: its epoch was chosen on the held-out fold "
                "(--select best), so its out-of-fold distance is too good, and its weight too high"
            )
        if len(group.members) > 1:
            how = "the mean frames of its" if fold_mean == "frames" else "combined over its"
            notes.append(f"dev and test: {group.describe()} is {how} {len(group.members)} fold models")
        else:
            notes.append(f"dev and test: {group.describe()} is one fold model")
        if all(member.has_attention_scores for member in group.members):
            notes.append(f"  the attention speller of {group.name} scores the {SCORED_STRINGS} likeliest strings of each pool")
    return OpenedInputs(splits, notes)


def _references(split: Split) -> tuple[list[int], ...] | None:
    if split.tokens is None:
        return None
    return tuple(split.labels(row).tolist() for row in range(len(split)))


def _parts(folds: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Parts (N,) numbered from 0 for the nested fit: the folds, or groups of speakers where there is one fold."""
    if len(np.unique(folds)) > 1:
        return np.unique(folds, return_inverse=True)[1], []
    if len(set(speakers)) == 1:
        note = f"  one fold of one speaker only: nested figures are fitted over {SPEAKER_PARTS} groups of utterances"
        return np.arange(len(speakers)) % min(SPEAKER_PARTS, len(speakers)), [note]
    order = {speaker: i for i, speaker in enumerate(sorted(set(speakers)))}
    parts = np.array([order[speaker] % SPEAKER_PARTS for speaker in speakers])
    count = len(np.unique(parts))
    note = f"  one fold only: nested figures are fitted over {count} groups of speakers instead of folds"
    return np.unique(parts, return_inverse=True)[1], [note]


def _language(dataset: Dataset, classes: int, order: int, rows: Sequence[int], held: np.ndarray) -> PhoneLM:
    """A phone language model of all training transcripts but those of the speakers of `rows` where `held`."""
    speakers = dataset.train.speakers
    left_out = {speakers[row] for row, out in zip(rows, held, strict=True) if out}
    seen = [row for row in range(len(dataset.train)) if speakers[row] not in left_out]
    return estimate([dataset.train.labels(row).tolist() for row in seen], classes, order)
