"""Defensive reading of HDF5 files with one group per trial: a truncated or foreign file gives a one-line error.

A file is open only while a trial is read, and one trial is in memory at a time. Links to other files are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from folds.competition.alphabets import Alphabet
from registry.errors import InputError, one_line
from registry.files import check_regular

_AGAIN = "copy or download it again"


class TrialFiles:
    """The trials of some HDF5 files, in the order of files, then of keys."""

    def __init__(self, paths: Sequence[Path], alphabet: Alphabet, labelled: bool) -> None:
        """Reads the names of the trials. Raises InputError for a file that is empty, truncated, or has no trials."""
        self.paths = tuple(paths)
        self.labelled = labelled
        self._alphabet = alphabet
        self.keys = [(path, trial) for path in paths for trial in _trial_names(path)]
        """File and group of each trial."""

    def location(self, index: int) -> str:
        """The name of the trial in error messages."""
        path, trial = self.keys[index]
        return f"{path}, {trial}"

    def features(self, index: int) -> np.ndarray:
        """`input_features` `(T, F)` of a trial, cut to its `n_time_steps`."""
        with self._trial(index) as trial:
            if not self.labelled:
                self._check_unlabelled(index, trial)
            features = self._array(index, trial, "input_features")
            # A wrong number of dimensions is reported, with the shape, by the check that all features go through.
            return features[: self._count(index, trial, "n_time_steps", len(features))] if features.ndim else features

    def labels(self, index: int) -> np.ndarray:
        """Classes `(L,)` int16 of a trial, `seq_class_ids` without its padding."""
        with self._trial(index) as trial:
            classes = self._array(index, trial, "seq_class_ids")
            if classes.ndim != 1 or classes.dtype.kind not in "iu":
                raise InputError(
                    f"{self.location(index)}: seq_class_ids has shape {classes.shape} of {classes.dtype}; expected a "
                    f"list of whole numbers; {_AGAIN}"
                )
            classes = classes[: self._count(index, trial, "seq_len", len(classes))]
        last = self._alphabet.classes - 1
        if (unknown := classes[(classes < 1) | (classes > last)]).size:
            raise InputError(
                f"{self.location(index)}: label {unknown[0]} in seq_class_ids; expected 1 to {last}, the phonemes of "
                f"{self._alphabet.name}; {_AGAIN}"
            )
        return classes.astype(np.int16)

    def text(self, index: int) -> str:
        """The sentence of a trial: its `sentence_label`, else its `transcription`, which ends at the first 0."""
        with self._trial(index) as trial:
            sentence = trial.attrs.get("sentence_label")
            if sentence is None:
                codes = self._array(index, trial, "transcription")
                if codes.ndim != 1 or codes.dtype.kind not in "iu" or np.any((codes < 0) | (codes > 127)):
                    raise InputError(f"{self.location(index)}: transcription is not a list of ASCII codes; {_AGAIN}")
                sentence = bytes(codes.tolist()).split(b"\0", 1)[0]
        return (sentence.decode(errors="replace") if isinstance(sentence, bytes) else str(sentence)).strip()

    def _check_unlabelled(self, index: int, trial: h5py.Group) -> None:
        """Raise InputError for a test trial with labels: the file belongs to another split."""
        for name in ("seq_class_ids", "transcription"):
            if name in trial:
                raise InputError(
                    f"{self.location(index)}: has {name}, but test trials have no labels; is it a training file under "
                    f"another name? {_AGAIN}"
                )

    def _array(self, index: int, trial: h5py.Group, name: str) -> np.ndarray:
        """A dataset of a trial, read whole."""
        dataset = trial.get(name) if isinstance(trial.get(name, getlink=True), h5py.HardLink) else None
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            held = ", ".join(sorted(trial)) or "nothing"
            raise InputError(f"{self.location(index)}: no {name} in it; found {held}; {_AGAIN}")
        return np.asarray(dataset[()])

    def _count(self, index: int, trial: h5py.Group, name: str, most: int) -> int:
        """The attribute `name` of a trial, a number of rows; `most` if it is absent."""
        value: Any = trial.attrs.get(name, most)
        if not isinstance(value, (int, np.integer)) or not 0 <= value <= most:
            raise InputError(f"{self.location(index)}: {name} is {value}; expected at most {most}, its rows; {_AGAIN}")
        return int(value)

    @contextmanager
    def _trial(self, index: int) -> Iterator[h5py.Group]:
        path, name = self.keys[index]
        with _opened(path) as file:
            trial = file.get(name)
            if not isinstance(trial, h5py.Group):
                raise InputError(f"{self.location(index)}: not a group; expected one per trial; {_AGAIN}")
            yield trial


def _trial_names(path: Path) -> list[str]:
    with _opened(path) as file:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    if not names:
        raise InputError(f"{path}: no trials in it; expected groups such as trial_0000; {_AGAIN}")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; the errors of many kinds that h5py raises for a damaged one become one line."""
    try:
        check_regular(path)
        # Without a lock, which read-only and network file systems may not support.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not an HDF5 file, or a damaged one ({one_line(error)[:160]}); expected a complete file; {_AGAIN}"
        ) from None
