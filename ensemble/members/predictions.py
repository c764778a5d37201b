"""Predictions for one split: log-probabilities of one fold model or one member, read from the runs folder and checked.

Missing or inconsistent predictions raise an InputError; nothing is filled in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.members.frame_mean import mean_log_probs
from ensemble.members.member import Member
from folds.store.fold_model import FoldModel
from folds.store.log_probs import LogProbs
from registry import InputError

# One byte per class index, so hypotheses hash and sort cheaply.
PackedHypothesis = bytes

# Maps utterance ids and, per utterance, hypotheses to log P(hypothesis | utterance).
AttentionScorer = Callable[[Sequence[str], Sequence[Sequence[PackedHypothesis]]], list[np.ndarray]]


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities of one network, fold model or refit, or of one member out of fold."""

    name: str
    """The name shown in notes and progress bars."""
    member: int
    """Index of the member in its split's `names`."""
    load: Callable[[], LogProbs]
    """Reads the log-probabilities of the split's utterances; not cached, since 100 models would not fit into memory."""
    attention_scorer: AttentionScorer | None = None
    """Scores hypotheses with the attention decoder; None for a model without one."""
    network: FoldModel | None = None
    """The network; None for predictions of a whole member."""
    delay: int = 0
    """Number of frames by which the features of the network, or of all the member's networks, are delayed."""


FrameCounts = Mapping[str, int]
"""The number of feature frames of each utterance in the data."""


def load_checked(
    fold_model: FoldModel, split: str, alphabet_hash: str, frame_counts: FrameCounts | None = None
) -> LogProbs:
    """One fold model's predictions for one split.

    Raises InputError, naming the member, for an unexpected alphabet, blank or stride, and, given the data's
    `frame_counts`, for an utterance whose number of frames does not match its features: they have changed, or are from
    other data.
    """
    where = _where(fold_model, split)
    log_probs = fold_model.load(split)
    if log_probs.alphabet_hash != alphabet_hash:
        raise InputError(
            f"{where}: has alphabet {log_probs.alphabet_hash}, but the data has {alphabet_hash}: it was trained on "
            "another competition; leave it out with --members, or pass its --data"
        )
    if log_probs.blank != 0:
        raise InputError(f"{where}: the blank is class {log_probs.blank}; expected 0: train it again")
    if log_probs.stride != fold_model.stride:
        raise InputError(
            f"{where}: has stride {log_probs.stride}, but config.json says {fold_model.stride}: train it again, or "
            "leave it out with --members"
        )
    if frame_counts is not None and fold_model.config.data.hash is not None:  # simulated runs have no data
        _check_frames(where, log_probs, frame_counts, fold_model.delay)
    return log_probs


def _check_frames(where: str, log_probs: LogProbs, frame_counts: FrameCounts, delay: int) -> None:
    """Raise InputError if an utterance with T feature frames does not have ceil((T + delay) / stride) predictions."""
    for utterance, found in zip(log_probs.ids, log_probs.lengths.tolist(), strict=True):
        count = frame_counts.get(utterance)  # callers reject utterances that are not in the data
        if count is not None and found != (expected := -(-(count + delay) // log_probs.stride)):
            raise InputError(
                f"{where}: predicts {found} frames for {utterance}; its {count} frames of features give {expected} at "
                f"stride {log_probs.stride}: the features have changed since it was trained; train it again, or leave "
                "it out with --members"
            )


def oof_predictions(
    member: Member, index: int, ids: Sequence[str], alphabet_hash: str, frame_counts: FrameCounts | None = None
) -> Predictions:
    """The member's out-of-fold predictions for `ids`, collected from its fold models.

    `index` is the member's index in its split; `frame_counts` are as in `load_checked`. `load` raises InputError if the
    fold models differ in stride: those of a member are one model, and their predictions are resampled as one.
    """

    def load() -> LogProbs:
        loaded = [load_checked(fold_model, "oof", alphabet_hash, frame_counts) for fold_model in member.fold_models]
        if len({log_probs.stride for log_probs in loaded}) > 1:
            strides = ", ".join(f"fold {fold_model.fold} has {fold_model.stride}" for fold_model in member.fold_models)
            raise InputError(
                f"member {member.name}: its fold models differ in stride ({strides}), so they are different models: "
                "train each with its own --name"
            )
        values = {
            utterance: log_probs.values[start:end]
            for log_probs in loaded
            for utterance, (start, end) in zip(log_probs.ids, itertools.pairwise(log_probs.offsets), strict=True)
        }
        return LogProbs.pack([values[utterance] for utterance in ids], ids, loaded[-1])

    return Predictions(member.name, index, load, delay=member.fold_models[0].delay)


def network_predictions(
    member: Member,
    index: int,
    split: str,
    ids: Sequence[str],
    alphabet_hash: str,
    frame_counts: FrameCounts | None = None,
) -> list[Predictions]:
    """Dev or test predictions of each of the member's networks; `index` and `frame_counts` are as in `oof_predictions`.

    `load` raises InputError for an utterance that is missing or that the data does not have.
    """
    return [
        Predictions(
            f"{member.name} {'refit' if network is member.refit else f'fold {network.fold}'}",
            index,
            _loader(network, split, tuple(ids), alphabet_hash, frame_counts),
            network=network,
            delay=network.delay,
        )
        for network in member.networks
    ]


def mean_predictions(
    member: Member,
    index: int,
    split: str,
    ids: Sequence[str],
    alphabet_hash: str,
    frame_counts: FrameCounts | None = None,
) -> Predictions:
    """Dev or test predictions of the member: the mean of its networks' probabilities per frame.

    `load` raises InputError if the networks have different numbers of frames.
    """
    predictions = network_predictions(member, index, split, ids, alphabet_hash, frame_counts)

    def load() -> LogProbs:
        loaded = [network.load() for network in predictions]
        first = loaded[0]
        if any((log_probs.offsets != first.offsets).any() for log_probs in loaded):
            raise InputError(f"member {member.name}: its networks differ in stride: use --fold-mean sequence")
        return mean_log_probs(loaded)

    return Predictions(f"{member.name} mean", index, load, delay=member.networks[0].delay)


def _loader(
    fold_model: FoldModel, split: str, ids: tuple[str, ...], alphabet_hash: str, frame_counts: FrameCounts | None
) -> Callable[[], LogProbs]:
    def load() -> LogProbs:
        log_probs = load_checked(fold_model, split, alphabet_hash, frame_counts)
        if log_probs.ids == ids:
            return log_probs
        where = _where(fold_model, split)
        missing = sorted(set(ids) - set(log_probs.ids))
        if missing:
            raise InputError(
                f"{where}: {len(missing)} of {len(ids)} utterances have no prediction, the first is {missing[0]}: "
                "train it again on this data"
            )
        unknown = sorted(set(log_probs.ids) - set(ids))
        if unknown:
            raise InputError(
                f"{where}: predicts {len(unknown)} utterances that the data does not have, the first is {unknown[0]}: "
                "it was trained on different data; leave it out with --members"
            )
        return log_probs.select(ids)

    return load


def _where(fold_model: FoldModel, split: str) -> str:
    return f"member {fold_model.name}, fold {fold_model.fold} ({fold_model.path}), {split}"
