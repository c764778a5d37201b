"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.members.member import Member
from folds.store.fold_model import FoldModel
from folds.store.log_probs import LogProbs
from registry import InputError


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities of one fold model, or of one member out of fold; read when asked for, so that 100 can wait.

    `member` is the index of the member in its panel; `load` gives the log-probabilities of the panel's utterances.
    `spell`, where the member has an attention speller, gives log P(string | utterance) of strings of some utterances.
    """

    name: str
    member: int
    load: Callable[[], LogProbs]
    spell: Callable[[Sequence[str], Sequence[Sequence[bytes]]], list[np.ndarray]] | None = None


def load_checked(member: FoldModel, split: str, alphabet: str) -> LogProbs:
    """One split of one fold model. Raises InputError naming the member for another alphabet or a NaN."""
    where = f"member {member.name}, fold {member.fold} ({member.path}), {split}"
    found = member.load(split)
    if found.alphabet != alphabet:
        raise InputError(
            f"{where}: alphabet {found.alphabet} where the data has {alphabet}: it was trained on another competition; "
            "leave it out with --members, or give its --data"
        )
    if found.blank != 0:
        raise InputError(f"{where}: the blank is class {found.blank}; expected 0: train it again")
    bad = np.isnan(found.values) | np.isposinf(found.values)
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        name = found.ids[int(np.searchsorted(found.offsets, row, side="right")) - 1]
        raise InputError(f"{where}: NaN or +inf in the log-probabilities of {name}: train it again, or leave it out")
    return found


def oof_predictions(group: Member, index: int, ids: Sequence[str], alphabet: str) -> Predictions:
    """The member's held-out predictions of `ids`, its fold models put together."""

    def read() -> LogProbs:
        parts, names = [], []
        for member in group.members:
            found = load_checked(member, "oof", alphabet)
            parts += [found.values[found.offsets[i] : found.offsets[i + 1]] for i in range(len(found))]
            names += found.ids
            like = found
        rows = {name: i for i, name in enumerate(names)}
        return LogProbs.of([parts[rows[name]] for name in ids], ids, like)

    return Predictions(group.name, index, read)


def fold_predictions(group: Member, index: int, split: str, ids: Sequence[str], alphabet: str) -> list[Predictions]:
    """One stream a fold model on dev or test. Raises InputError, when read, for a missing or foreign utterance."""
    return [
        Predictions(f"{group.name} fold {member.fold}", index, _reader(member, split, tuple(ids), alphabet))
        for member in group.members
    ]


def mean_predictions(group: Member, index: int, split: str, ids: Sequence[str], alphabet: str) -> Predictions:
    """One stream for all the member's fold models: the mean of their probabilities, frame by frame.

    Raises InputError, when read, where the fold models have different numbers of frames.
    """
    predictions = fold_predictions(group, index, split, ids, alphabet)

    def load() -> LogProbs:
        found = [stream.load() for stream in predictions]
        if any((each.offsets != found[0].offsets).any() for each in found):
            raise InputError(f"member {group.name}: its fold models differ in stride: use --fold-mean sequence")
        mean = np.zeros(found[0].values.shape, np.float32)
        for each in found:
            mean += np.exp(each.values.astype(np.float32)) / len(found)
        return replace(found[0], values=np.log(np.maximum(mean, 1e-9)).astype(np.float16))

    return Predictions(f"{group.name} folds' mean", index, load)


def _reader(member: FoldModel, split: str, ids: tuple[str, ...], alphabet: str) -> Callable[[], LogProbs]:
    def read() -> LogProbs:
        found = load_checked(member, split, alphabet)
        if found.ids == ids:
            return found
        where = f"member {member.name}, fold {member.fold} ({member.path}), {split}"
        missing = sorted(set(ids) - set(found.ids))
        if missing:
            raise InputError(
                f"{where}: {len(missing)} of {len(ids)} utterances have no prediction, the first is {missing[0]}: "
                "train it again on this data"
            )
        foreign = sorted(set(found.ids) - set(ids))
        if foreign:
            raise InputError(
                f"{where}: predicts {len(foreign)} utterances the data does not have, the first is {foreign[0]}: "
                "it was trained on other data; leave it out with --members"
            )
        return found.select(ids)

    return read
