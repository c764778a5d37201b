"""Sequence-level distillation: a student learns the posterior of an ensemble over its N-best hypotheses.

The student's loss is the cross-entropy between the teacher's posterior over label sequences, truncated to its N-best,
and the student's (Kim & Rush 2016, arXiv 1606.07947, section 3.2), mixed with the loss on the transcript.

The hypotheses for a training utterance are out of fold: their models were not trained on it. But the models behind the
hypotheses for the other folds were. Through them, a student that held out a fold would learn that fold's transcripts,
and look better out of fold than it is. So only a student that holds nothing out (`--folds 1`) can have a teacher, and
is evaluated on dev, on which no teacher was trained. The few settings of the teacher's blend were fitted on all of the
utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from folds.data.batches import SoftTargets
from folds.data.dataset import Split
from folds.store.fold_model import TRANSDUCTIVE, training_tags
from folds.store.nbest_file import NBestFile, NBestHypotheses, file_hash, read_nbest_file
from folds.store.ragged import Ragged, offsets_of
from folds.store.schemas import ConfigFile
from registry import InputError
from registry.json_files import read_json


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher's hypotheses, and what the student's run records about it."""

    file: NBestFile
    facts: dict[str, Any]

    @property
    def on_test(self) -> bool:
        """Whether the student is trained on test too."""
        return self.facts["on_test"]

    def label_test(self, test: Split) -> Split:
        """The test split with the most probable hypotheses as transcripts. Raises InputError if some have none."""
        hypotheses = self.file.test
        if set(hypotheses.ids) != set(test.ids):
            raise InputError(
                f"--teacher {self.facts['from']}: its hypotheses are not for the utterances of {test.name}: blend "
                "again on this data with --nbest-out"
            )
        return labelled(test, hypotheses)


def labelled(split: Split, hypotheses: NBestHypotheses) -> Split:
    """`split` with the most probable hypotheses as transcripts; an utterance without one has an empty transcript."""
    bounds = zip(hypotheses.offsets[:-1], hypotheses.offsets[1:], strict=True)
    best = [first + int(hypotheses.posteriors[first:last].argmax()) for first, last in bounds]
    row_of = _rows(hypotheses, 0)
    # The empty transcript comes after the hypotheses.
    tokens = Ragged.concatenate([hypotheses.tokens, Ragged.of([[]], np.int16)])
    chosen = [best[row_of[utterance]] if utterance in row_of else len(hypotheses.tokens) for utterance in split.ids]
    return replace(split, tokens=tokens.take(chosen))


@dataclass(frozen=True, eq=False)
class StudentTargets:
    """The hypotheses and posteriors from which a student learns, by position in its train split.

    An utterance without teacher hypotheses gets its transcript, with posterior 1.
    """

    offsets: np.ndarray
    """`(N + 1,)`: the utterance at position u has the hypotheses `offsets[u]:offsets[u + 1]`."""
    tokens: Ragged
    posteriors: np.ndarray
    taught: int
    """Number of utterances with teacher hypotheses."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of_batch(self, indices: tuple[int, ...]) -> SoftTargets:
        """The targets of a batch of the utterances at `indices`."""
        return soft_targets(self.tokens, self.posteriors, self.offsets, indices)


def soft_targets(tokens: Ragged, posteriors: np.ndarray, offsets: np.ndarray, rows: Sequence[int]) -> SoftTargets:
    """The hypotheses of a batch of the utterances at `rows`; those of row u start at `offsets[u]`.

    Uses NumPy for the reason given in `collate`.
    """
    chosen, chosen_offsets = Ragged(posteriors, offsets).rows_of(rows)
    tokens = tokens.take(chosen)
    return SoftTargets(
        rows=torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(chosen_offsets))),
        targets=torch.from_numpy(tokens.values.astype(np.int64)),
        target_lengths=torch.from_numpy(tokens.lengths),
        weights=torch.from_numpy(posteriors[chosen]),
    )


class _NBest(msgspec.Struct):
    """The file of hypotheses that a sidecar names, relative to it."""

    file: str
    sha256: str
    tags: list[str] | None = None
    """Tags of the members that produced the hypotheses."""


class _Sidecar(msgspec.Struct):
    """What a student reads from the .json file next to its teacher's submission."""

    tags: list[str] = []
    nbest: _NBest | None = None


def find_nbest_file(sidecar: Path, option: str) -> tuple[Path, str, list[str]]:
    """(the file of hypotheses that a submission's `.json` names, its SHA-256, the tags of the members behind it).

    Raises InputError, naming `option`, if there are none, or if they changed since the sidecar was written.
    """
    option = f"{option} {sidecar}"
    description = read_json(sidecar, _Sidecar, "pass the .json beside a submission that was blended with --nbest-out")
    if description.nbest is None:
        raise InputError(f"{option}: names no N-best hypotheses: blend with --nbest-out FILE and pass its .csv.json")
    path, expected = sidecar.parent / description.nbest.file, description.nbest.sha256
    digest = file_hash(path)
    if digest != expected:
        raise InputError(f"{option}: {path} was written by another blend: blend again with --nbest-out")
    return path, digest, description.tags if description.nbest.tags is None else description.nbest.tags


def open_nbest_file(
    sidecar: Path, option: str, config: ConfigFile, transductive: bool
) -> tuple[NBestFile, dict[str, Any]]:
    """The hypotheses that `sidecar`, the `.json` of a submission, names, and what a run records about them.

    `config` is the config.json of the run that will use them; `transductive` says whether it learns from those of dev
    or test. Raises InputError, naming `option`, like `find_nbest_file`, or if they are for other data.
    """
    path, digest, inherited = find_nbest_file(sidecar, option)
    option = f"{option} {sidecar}"
    file = read_nbest_file(path)
    for what, given, here in (
        ("a different alphabet", file.alphabet, config.data.alphabet),
        ("different data", file.data, config.data.hash),
    ):
        if given != here:
            raise InputError(f"{option}: blended for {what} ({given}, here {here}): blend again on this data")
    largest = max(int(part.tokens.values.max(initial=0)) for part in (file.oof, file.dev, file.test))
    if largest >= (classes := config.model_config["classes"]):
        raise InputError(f"{option}: {path} has class {largest}; expected 1 to {classes - 1}: blend again on this data")
    tags = training_tags([*inherited, *([TRANSDUCTIVE] if transductive else [])])
    return file, {"from": str(sidecar), "nbest": digest[:16], "tags": tags}


def open_teacher(sidecar: Path, on_test: bool, config: ConfigFile) -> Teacher:
    """The teacher whose submission `sidecar` describes, for the run described by `config`, its future config.json.

    Raises InputError like `open_nbest_file`.
    """
    file, facts = open_nbest_file(sidecar, "--teacher", config, transductive=on_test)
    return Teacher(file, facts | {"on_test": on_test})


def student_targets(teacher: Teacher, split: Split, training: int) -> StudentTargets:
    """The targets for the utterances of the train split. Raises InputError if the teacher has hypotheses for none.

    The first `training` utterances are those of train; those of dev and, at the end, test may follow. Ids are unique
    only within a split.
    """
    assert split.tokens is not None
    sources = [teacher.file.oof, *([teacher.file.test] if teacher.on_test else [])]
    known = _joined(sources)
    rows_of_oof, rows_of_test = _rows(teacher.file.oof, 0), _rows(teacher.file.test, len(teacher.file.oof.ids))
    of_test = len(split) - (len(teacher.file.test.ids) if teacher.on_test else 0)
    # After the teacher's hypotheses come the transcripts, each as a separate hypothesis.
    own, first = np.arange(len(split)), len(known.tokens)
    own_rows = (rows_of_oof if u < training else rows_of_test if u >= of_test else {} for u in own.tolist())
    pairs = zip(own_rows, split.ids, strict=True)
    rows = np.array([rows.get(utterance, len(known.ids) + u) for u, (rows, utterance) in enumerate(pairs)])
    taught = int((rows < len(known.ids)).sum())
    if not taught:
        raise InputError(f"--teacher {teacher.facts['from']}: has no hypotheses for any training utterance")
    offsets = np.concatenate([known.offsets, first + 1 + own])
    tokens = Ragged.concatenate([known.tokens, split.tokens])
    posteriors = np.concatenate([known.posteriors, np.ones(len(split), np.float32)])
    chosen, offsets = Ragged(posteriors, offsets).rows_of(rows)
    return StudentTargets(offsets, tokens.take(chosen), posteriors[chosen], taught)


def _rows(hypotheses: NBestHypotheses, first: int) -> dict[str, int]:
    """Each utterance's position, starting from `first`."""
    return {utterance: row for row, utterance in enumerate(hypotheses.ids, start=first)}


def _joined(parts: list[NBestHypotheses]) -> NBestHypotheses:
    """The hypotheses of several splits, one after the other."""
    ids = tuple(utterance for part in parts for utterance in part.ids)
    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in parts]))
    posteriors = np.concatenate([part.posteriors for part in parts])
    return NBestHypotheses(ids, offsets, Ragged.concatenate([part.tokens for part in parts]), posteriors)
