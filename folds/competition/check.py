"""A check of the contract of `Competition`, for the tests of this project and of plug-in packages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from folds.competition.base import Competition, SplitSource
from registry.errors import InputError


def check_competition(
    kind: type[Competition], root: Path, foreign_folders: Iterable[Path] = (), allow_pickle: bool = False
) -> None:
    """Read everything in a small example of a competition, and raise InputError for the first violation.

    `root` is the example's folder; `foreign_folders` are folders of other competitions, which must not be recognised.
    Each split needs utterances with distinct ids, features `(T, F)` of the same F and, except for test, labels `(L,)`
    from 1 to C - 1; `group` must put several training utterances into one group, or return the id itself if ids name no
    group; and `check_text` must accept what `submission_text` returns for the labels.

    >>> check_competition(Letters, Path("tests/letters"))  # doctest: +SKIP
    """
    name = kind.__name__
    if not kind.recognises(root):
        raise InputError(f"{name}.recognises: does not recognise {root}; expected the folder of its own example")
    for folder in foreign_folders:
        if kind.recognises(folder):
            raise InputError(f"{name}.recognises: recognises {folder}, the folder of another competition")
    competition = kind(root, allow_pickle)
    widths: set[int] = set()
    for split in competition.splits:
        where = f"{name}, {split.name}"
        _check_names(split, root, where)
        if split.labels is None and split.name != "test":
            raise InputError(f"{where}: labels is None; expected a function that reads the classes of an utterance")
        for index, utterance in enumerate(split.ids):
            widths.add(_check_features(split, index, f"{where}, {utterance}"))
            if split.labels is not None:
                _check_labels(competition, split.labels(index), f"{where}, {utterance}")
            if split.text is not None and not split.text(index).isprintable():
                raise InputError(f"{where}, {utterance}: text has characters that cannot be printed; expected words")
        split.close()
    if len(widths) != 1:
        raise InputError(f"{name}: utterances have {sorted(widths)} features per frame; expected the same in all")
    _check_groups(competition, name)


def _check_names(split: SplitSource, root: Path, where: str) -> None:
    """Raise InputError for ids that are not distinct, or files that do not exist."""
    if not split.ids or len(set(split.ids)) != len(split.ids):
        distinct = len(set(split.ids))
        raise InputError(f"{where}: {len(split.ids)} ids, {distinct} distinct; expected one or more, each once")
    for file in split.files:
        if not (root / file).is_file():
            raise InputError(f"{where}: files names {file}, which is not a file; expected paths relative to the root")


def _check_features(split: SplitSource, index: int, where: str) -> int:
    """The number F of features per frame. Raises InputError for anything but finite numbers `(T, F)`."""
    features = np.asarray(split.features(index))
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu" or not np.isfinite(features).all():
        raise InputError(
            f"{where}: features are {features.dtype} {features.shape}; expected finite numbers of shape (T, F)"
        )
    return features.shape[1]


def _check_labels(competition: Competition, labels: np.ndarray, where: str) -> None:
    """Raise InputError for labels that are not classes `(L,)`, or whose submission text is rejected."""
    last = competition.alphabet.classes - 1
    if labels.ndim != 1 or labels.dtype != np.int16 or ((labels < 1) | (labels > last)).any():
        found = f"{labels.dtype} {labels.shape}, {str(labels)[:80]}"
        raise InputError(f"{where}: labels are {found}; expected int16 of shape (L,), from 1 to {last}")
    text = competition.submission_text(labels.tolist())
    try:
        competition.check_text(text)
    except InputError as error:
        raise InputError(f"{where}: check_text rejects {text[:80]!r}, made by submission_text: {error}") from None


def _check_groups(competition: Competition, name: str) -> None:
    """Raise InputError if every training utterance has a group of its own, though ids name groups."""
    ids = competition.train.ids
    groups = [competition.group(utterance) for utterance in ids]
    if len(set(groups)) == len(ids) > 1 and groups != list(ids):
        raise InputError(
            f"{name}.group: {len(ids)} training utterances, {len(ids)} groups such as {groups[0]!r}; expected several "
            f"of one {competition.grouped_by} in the example, or the id itself where ids name none"
        )
