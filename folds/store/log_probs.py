"""Log-probabilities of one split, in memory and as a file: float16, all utterances in one array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from folds.store.ragged import Ragged, offsets_of
from folds.store.schemas import Count, Positive
from registry import InputError, atomic_write
from registry.json_files import convert

SCHEMA_VERSION = "1"


def ids_hash(ids: Iterable[str]) -> str:
    """16 hexadecimal digits that identify a sequence of utterance ids, order included."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LogProbs(Ragged):
    """CTC log-probabilities of many utterances: `values` `(sum of T', C)`, float16 in files; `offsets` `(N + 1,)`."""

    ids: tuple[str, ...]
    """The N utterances."""
    alphabet_hash: str
    """`Alphabet.hash` of the alphabet that the classes belong to."""
    blank: int
    """The blank's class."""
    stride: int
    """Input frames per output frame."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Log-probabilities of one utterance, float32 `(T', C)`."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return super().__getitem__(index % len(self)).astype(np.float32)

    @property
    def classes(self) -> int:
        """Number of classes, the blank included."""
        return self.values.shape[1]

    def take(self, indices: Sequence[int] | np.ndarray) -> LogProbs:
        """The utterances at `indices`, in that order."""
        taken, ids = super().take(indices), tuple(self.ids[index] for index in indices)
        return LogProbs(taken.values, taken.offsets, ids, self.alphabet_hash, self.blank, self.stride)

    def select(self, ids: Sequence[str]) -> LogProbs:
        """The utterances `ids`, in that order. Raises InputError naming the first utterance that is missing."""
        row_of = {utterance: row for row, utterance in enumerate(self.ids)}
        missing = [utterance for utterance in ids if utterance not in row_of]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(ids)} utterances have no prediction, the first is {missing[0]}: "
                "train this model again on this data"
            )
        return self.take([row_of[utterance] for utterance in ids])

    @staticmethod
    def pack(parts: Sequence[np.ndarray], ids: Iterable[str], like: LogProbs) -> LogProbs:
        """Pack one `(T', C)` array per utterance; alphabet, blank and stride are those of `like`."""
        values = np.concatenate(parts) if parts else np.zeros((0, like.classes))
        offsets = offsets_of(len(part) for part in parts)
        values = values.astype(np.float16, copy=False)
        return LogProbs(values, offsets, tuple(ids), like.alphabet_hash, like.blank, like.stride)

    def padded(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A batch: float32 `(N, T, C)` and lengths int64 `(N,)`; padding frames give the blank probability 1."""
        lengths = self.lengths[list(indices)]
        batch = np.full((len(lengths), int(lengths.max(initial=0)), self.classes), -np.inf, dtype=np.float32)
        batch[:, :, self.blank] = 0.0
        for row, index in enumerate(indices):
            batch[row, : lengths[row]] = self[index]
        return batch, lengths


def write_log_probs(path: Path, log_probs: LogProbs) -> None:
    """Write the predictions of one split. Raises InputError naming the utterance if there is a NaN or +inf."""
    values = np.ascontiguousarray(log_probs.values, dtype=np.float16)
    bad = np.flatnonzero(np.isnan(values).any(axis=1) | np.isposinf(values).any(axis=1))
    if len(bad):
        utterance = log_probs.ids[int(np.searchsorted(log_probs.offsets, bad[0], side="right")) - 1]
        raise InputError(f"{path}: the model's output for {utterance} has NaN or +inf: train again with a smaller --lr")
    tensors: dict[str, np.ndarray] = {
        "log_probs": values,
        "offsets": np.ascontiguousarray(log_probs.offsets, dtype=np.int64),
        "ids": np.frombuffer("\n".join(log_probs.ids).encode(), dtype=np.uint8),
    }
    header = {
        "schema": SCHEMA_VERSION,
        "ids_hash": ids_hash(log_probs.ids),
        "alphabet": log_probs.alphabet_hash,
        "blank": str(log_probs.blank),
        "stride": str(log_probs.stride),
    }
    with atomic_write(path) as temporary:
        # Not `save_file`: on a full disk it raises SafetensorError, which hides the errno that `command` looks for;
        # Python's own write raises OSError.
        temporary.write_bytes(to_bytes(tensors, metadata=header))


class _Header(msgspec.Struct):
    ids_hash: str
    alphabet: str
    blank: Count
    stride: Positive


def read_log_probs(path: Path) -> LogProbs:
    """Read the predictions of one split. Raises InputError for a file that is missing, damaged or inconsistent."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            version = header.get("schema")
            if version != SCHEMA_VERSION:
                raise InputError(f"{path}: schema {version}, expected {SCHEMA_VERSION}: train this model again")
            described = convert(header, _Header, str(path), "train this model again", strict=False)
            values, offsets = file.get_tensor("log_probs"), file.get_tensor("offsets")
            text = file.get_tensor("ids").tobytes().decode()
    except FileNotFoundError:
        message = f"{path}: no such file: this run is not finished; continue it with folds.train --resume"
        raise InputError(message) from None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}): delete it and run folds.train with --resume") from None
    if values.ndim != 2 or values.dtype != np.float16 or offsets.ndim != 1 or offsets.dtype != np.int64:
        found = f"log_probs {values.shape} {values.dtype}, offsets {offsets.shape} {offsets.dtype}"
        raise InputError(f"{path}: {found}; expected (T, C) float16 and (N + 1,) int64: train this model again")
    ids = tuple(text.split("\n")) if text else ()
    increasing = len(offsets) == len(ids) + 1 and offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
    if not increasing or offsets[-1] != len(values) or ids_hash(ids) != described.ids_hash:
        raise InputError(f"{path}: offsets, rows and utterances do not match: delete it and train this model again")
    return LogProbs(values, offsets, ids, described.alphabet, described.blank, described.stride)
