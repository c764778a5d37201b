"""TODO"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from registry import InputError, atomic_write

SCHEMA = "1"


def ids_hash(ids: Iterable[str]) -> str:
    """16 hex digits that name a sequence of utterance ids, order included."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LogProbs:
    """CTC log-probabilities of many utterances.

    `values` float16 `(sum of T', C)`, `offsets` int64 `(N+1,)`, `ids` the N utterances, `alphabet` its hash, `blank`
    the blank's class, `stride` input frames per output frame.
    """

    values: np.ndarray
    offsets: np.ndarray
    ids: tuple[str, ...]
    alphabet: str
    blank: int
    stride: int

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        """Log-probabilities of one utterance, float32 `(T', C)`."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.values[self.offsets[index] : self.offsets[index + 1]].astype(np.float32)

    @property
    def lengths(self) -> np.ndarray:
        """Output frames of each utterance, int64 `(N,)`."""
        return np.diff(self.offsets)

    @property
    def classes(self) -> int:
        """Number of classes, the blank included."""
        return self.values.shape[1]

    def select(self, ids: Sequence[str]) -> LogProbs:
        """The same for `ids`, in their order. Raises InputError naming the first utterance that is missing."""
        rows = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in rows]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(ids)} utterances have no prediction, the first is {missing[0]}: "
                "train the member again on this data"
            )
        order = [rows[name] for name in ids]
        return LogProbs.of([self.values[self.offsets[i] : self.offsets[i + 1]] for i in order], ids, self)

    @staticmethod
    def of(parts: Sequence[np.ndarray], ids: Iterable[str], like: LogProbs) -> LogProbs:
        """Pack one `(T', C)` array an utterance; alphabet, blank and stride as in `like`."""
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        values = np.concatenate(parts) if parts else np.zeros((0, like.classes))
        return LogProbs(
            values.astype(np.float16, copy=False), offsets, tuple(ids), like.alphabet, like.blank, like.stride
        )

    def padded(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A batch: float32 `(N, T, C)` and lengths int64 `(N,)`; rows past the end are a sure blank."""
        lengths = self.lengths[list(indices)]
        batch = np.full((len(lengths), int(lengths.max(initial=0)), self.classes), -np.inf, dtype=np.float32)
        batch[:, :, self.blank] = 0.0
        for row, index in enumerate(indices):
            batch[row, : lengths[row]] = self[index]
        return batch, lengths


def write_log_probs(path: Path, log_probs: LogProbs) -> None:
    """Write one split of one member. Raises InputError naming the utterance when there is a NaN or +inf."""
    values = np.ascontiguousarray(log_probs.values, dtype=np.float16)
    bad = np.flatnonzero(np.isnan(values).any(axis=1) | np.isposinf(values).any(axis=1))
    if len(bad):
        name = log_probs.ids[int(np.searchsorted(log_probs.offsets, bad[0], side="right")) - 1]
        raise InputError(f"{path}: the model's output for {name} holds NaN or +inf: train again with a smaller --lr")
    tensors = {
        "log_probs": values,
        "offsets": np.ascontiguousarray(log_probs.offsets, dtype=np.int64),
        "ids": np.frombuffer("\n".join(log_probs.ids).encode(), dtype=np.uint8),
    }
    header = {
        "schema": SCHEMA,
        "ids_hash": ids_hash(log_probs.ids),
        "alphabet": log_probs.alphabet,
        "blank": str(log_probs.blank),
        "stride": str(log_probs.stride),
    }
    with atomic_write(path) as temporary:
        # Through Python's own write, so that a full disk is an OSError as everywhere else.
        temporary.write_bytes(to_bytes(tensors, metadata=header))


def read_log_probs(path: Path) -> LogProbs:
    """Read one split of one member. Raises InputError for a missing, damaged or foreign file."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("schema") != SCHEMA:
                raise InputError(
                    f"{path}: schema {header.get('schema')} where {SCHEMA} was expected: train this member again"
                )
            values, offsets = file.get_tensor("log_probs"), file.get_tensor("offsets")
            text = file.get_tensor("ids").tobytes().decode()
    except FileNotFoundError:
        message = f"{path}: no such file: this member is not finished; run its folds.train with --resume"
        raise InputError(message) from None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged ({error}): delete it and run folds.train with --resume") from None
    ids = tuple(text.split("\n")) if text else ()
    if len(offsets) != len(ids) + 1 or offsets[-1] != len(values) or ids_hash(ids) != header["ids_hash"]:
        raise InputError(f"{path}: offsets, rows and utterances do not agree: delete it and train this member again")
    return LogProbs(values, offsets, ids, header["alphabet"], int(header["blank"]), int(header["stride"]))
