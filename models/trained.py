"""Trained models for notebooks and other code: `load` one from its run's folder, predict, decode."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from models.adapter import build_network
from models.ctc import greedy
from models.network import CTCModel
from models.weights_file import WEIGHTS_FILE, Description, load_weights, read_description, write_weights
from registry import InputError

__all__ = ["WEIGHTS_FILE", "TrainedModel", "load", "write_weights"]

# Frames per batch, padding included: enough to keep a device busy, and a few hundred MB at most.
BATCH_FRAMES = 16_000


def load(run_folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> TrainedModel:
    """The trained model of a run, from the weights file in its folder, runs/<model>/fold<k>.

    >>> import numpy as np, models
    >>> trained = models.load("runs/pblstm/fold0")
    >>> trained.name, trained.features, trained.classes, trained.stride
    ('pblstm', 28, 41, 4)
    >>> log_probs = trained.predict(np.load("utterance.npy"))
    >>> log_probs.shape, log_probs.dtype
    ((20, 41), dtype('float32'))
    >>> trained.decode(log_probs)
    ['HH', 'AH', 'L', 'OW']
    >>> trained.to_string(trained.decode(log_probs))
    'hAlo'

    Raises InputError for a folder or weights file that does not exist, a file that is damaged or was written by an
    earlier version without a description, or a model that is not registered.
    """
    folder = Path(run_folder)
    path = folder / WEIGHTS_FILE
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: expected that of a run, runs/<model>/fold<k>")
    if not path.is_file():
        runs = sorted(run.parents[1] for run in folder.glob(f"*/{WEIGHTS_FILE}"))
        advice = f"pass the folder of one run, such as {runs[0]}" if runs else "train this run to the end"
        raise InputError(f"{path}: no such file: {advice}")
    description = read_description(path)
    try:
        network = build_network(description.model, description.config, description.group_layer)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    load_weights(path, network)
    return TrainedModel(description, network.to(device).eval())


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network with the alphabet and the normalisation it was trained with; `load` makes one."""

    description: Description
    network: CTCModel
    """The network, in evaluation mode. Predictions are computed on the device it is on."""

    @property
    def name(self) -> str:
        """The model's registered name."""
        return self.description.model

    @property
    def features(self) -> int:
        """Values per frame, F."""
        return self.description.config["features"]

    @property
    def classes(self) -> int:
        """Number of classes C, including the blank."""
        return self.network.classes

    @property
    def stride(self) -> int:
        """Input frames per output frame: T frames become ceil(T / stride)."""
        return self.network.stride

    @property
    def phonemes(self) -> tuple[str, ...]:
        """The phoneme of each class; empty for class 0, the blank."""
        return self.description.phonemes

    @property
    def characters(self) -> tuple[str, ...]:
        """The submission character of each class; empty for class 0, the blank."""
        return self.description.characters

    @overload
    def predict(self, features: np.ndarray, groups: Sequence[str] = ()) -> np.ndarray: ...

    @overload
    def predict(self, features: Sequence[np.ndarray], groups: Sequence[str] = ()) -> list[np.ndarray]: ...

    def predict(
        self, features: np.ndarray | Sequence[np.ndarray], groups: Sequence[str] = ()
    ) -> np.ndarray | list[np.ndarray]:
        """Log-probabilities `(T', C)` float32 for the raw features `(T, F)` of an utterance, or a list for a list.

        Features are normalised as in training. `groups` names each utterance's speaker or day. Normalisation by group
        uses the statistics of the group's utterances in this call, or of each utterance without names. A group layer
        maps an utterance without a name, or of a group not seen in training, by the mean of its layers.

        Raises InputError for features of the wrong width, without frames, or with non-finite values, and for the wrong
        number of groups.
        """
        if isinstance(features, list | tuple):
            return self._predict_all(features, groups)
        return self._predict_all([np.asarray(features)], groups)[0]

    @overload
    def decode(self, log_probs: np.ndarray) -> list[str]: ...

    @overload
    def decode(self, log_probs: Sequence[np.ndarray]) -> list[list[str]]: ...

    def decode(self, log_probs: np.ndarray | Sequence[np.ndarray]) -> list[str] | list[list[str]]:
        """Greedy decoding of log-probabilities `(T', C)` to phonemes, or a list of them for a list."""
        if isinstance(log_probs, list | tuple):
            return [self.decode(utterance) for utterance in log_probs]
        values = np.asarray(log_probs)
        if values.ndim != 2 or values.shape[1] != self.classes:
            raise InputError(f"log-probabilities are {values.shape}; expected (T', {self.classes})")
        (tokens,) = greedy(values[None], np.array([len(values)]))
        return [self.phonemes[token] for token in tokens]

    def to_string(self, labels: Iterable[str] | Iterable[int]) -> str:
        """The submission string, one character per label; labels are phonemes or tokens (class numbers).

        Raises InputError for a label that the alphabet does not have.
        """
        table: dict[object, str] = dict(zip(self.phonemes, self.characters, strict=True))
        table |= dict(enumerate(self.characters))
        try:
            return "".join([table[label] for label in labels])
        except KeyError as error:
            known = " ".join(self.phonemes[1:])
            raise InputError(
                f"unknown label {error}: expected phonemes ({known}) or tokens from 0 to {self.classes - 1}"
            ) from None

    @torch.inference_mode()
    def _predict_all(self, utterances: Sequence[np.ndarray], groups: Sequence[str]) -> list[np.ndarray]:
        if groups and len(groups) != len(utterances):
            raise InputError(f"{len(groups)} groups for {len(utterances)} utterances: expected one for each, or none")
        checked = [self._checked(utterance, index) for index, utterance in enumerate(utterances)]
        normalized = self.description.transform.apply(checked, groups)
        device = next(self.network.parameters()).device
        predictions: dict[int, np.ndarray] = {}
        for indices in _batches([len(frames) for frames in normalized]):
            lengths = torch.tensor([len(normalized[index]) for index in indices])
            padded = torch.zeros(len(indices), int(lengths.max()), self.features)
            for row, index in enumerate(indices):
                padded[row, : lengths[row]] = torch.from_numpy(normalized[index])
            names = [groups[index] for index in indices] if groups else ()
            log_probs, ends = self.network(padded.to(device), lengths, names)
            for index, values, end in zip(indices, log_probs.cpu().numpy(), ends.tolist(), strict=True):
                predictions[index] = values[:end].copy()
        return [predictions[index] for index in range(len(utterances))]

    def _checked(self, features: np.ndarray, index: int) -> np.ndarray:
        values = np.asarray(features)
        if values.ndim != 2 or values.shape[1] != self.features or not len(values) or values.dtype.kind not in "fiu":
            raise InputError(
                f"utterance {index}: features are {values.dtype} {values.shape}; expected numbers of shape "
                f"(T, {self.features}) with T at least 1, or a list of such arrays"
            )
        for frame in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
            raise InputError(f"utterance {index}, frame {frame}: the features are NaN or infinite; expected numbers")
        return values


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of utterances of similar length, in batches of about `BATCH_FRAMES` frames, padding included."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    # The last utterance of a batch is the longest, and all are padded to its length.
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > BATCH_FRAMES:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
