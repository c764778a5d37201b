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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from folds.data.batches import SoftTargets
from folds.data.dataset import Split
from folds.store.nbest_file import NBestFile, NBestHypotheses
from folds.store.ragged import Ragged, offsets_of
from folds.store.schemas import ConfigFile
from folds.training.blend_hypotheses import labelled, open_nbest_file, rows_of, soft_targets
from registry import InputError


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
    rows_of_oof, rows_of_test = rows_of(teacher.file.oof), rows_of(teacher.file.test, len(teacher.file.oof.ids))
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


def _joined(parts: list[NBestHypotheses]) -> NBestHypotheses:
    """The hypotheses of several splits, one after the other."""
    ids = tuple(utterance for part in parts for utterance in part.ids)
    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in parts]))
    posteriors = np.concatenate([part.posteriors for part in parts])
    return NBestHypotheses(ids, offsets, Ragged.concatenate([part.tokens for part in parts]), posteriors)
