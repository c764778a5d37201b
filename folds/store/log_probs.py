"""Log-probabilities of one split, in memory and as a file: float16, all utterances in one array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from folds.store.ragged import Ragged, offsets_of
from folds.store.schemas import Count, Positive
from registry import InputError
from registry.errors import one_line
from registry.json_files import convert
from registry.tensor_files import open_tensors, write_serialized

SCHEMA_VERSION = "1"
MAX_ERROR = 0.02
"""How far the sum of a frame's probabilities may be from 1: log-probabilities rounded to float16 are off by 0.001,
those of networks in bfloat16 by 0.007."""
_CHECK_ROWS = 100_000

# Files whose contents were checked in this process: (path, size, modification time).
_intact: set[tuple[str, int, int]] = set()


def ids_hash(ids: Iterable[str]) -> str:
    """16 hexadecimal digits: hash of a sequence of utterance ids, including their order."""
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
        """Number of classes, including the blank."""
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
    """Write the predictions of one split, with a checksum of the contents.

    Raises InputError naming the utterance if there is a NaN or +inf, or a frame whose probabilities do not sum to 1.
    """
    values = np.ascontiguousarray(log_probs.values, dtype=np.float16)
    if fault := _find_fault(values, log_probs.offsets, log_probs.ids):
        raise InputError(f"{path}: the model's output {fault}: train again with a smaller --lr")
    tensors: dict[str, np.ndarray] = {
        "log_probs": values,
        "offsets": np.ascontiguousarray(log_probs.offsets, dtype=np.int64),
        "ids": np.frombuffer("\n".join(log_probs.ids).encode(), dtype=np.uint8),
    }
    described = _LogProbsHeader(ids_hash(log_probs.ids), log_probs.alphabet_hash, log_probs.blank, log_probs.stride)
    header = {
        "schema": SCHEMA_VERSION,
        "ids_hash": described.ids_hash,
        "alphabet": described.alphabet,
        "blank": str(described.blank),
        "stride": str(described.stride),
        "checksum": _checksum(tensors, described),
    }
    write_serialized(path, to_bytes(tensors, metadata=header))


def _checksum(tensors: Mapping[str, np.ndarray], described: _LogProbsHeader) -> str:
    """SHA-256 of a file's header and of its tensors, with their names, types and shapes."""
    facts = (described.ids_hash, described.alphabet, described.blank, described.stride)
    digest = hashlib.sha256(" ".join(map(str, facts)).encode())
    for name in ("log_probs", "offsets", "ids"):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _find_fault(values: np.ndarray, offsets: np.ndarray, ids: Sequence[str]) -> str:
    """What is wrong with the first frame that does not hold log-probabilities; "" if all do."""
    for start in range(0, len(values), _CHECK_ROWS):
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.exp(values[start : start + _CHECK_ROWS], dtype=np.float32).sum(axis=1)
        bad = np.flatnonzero(~(np.abs(sums - 1) <= MAX_ERROR))  # NaN and +inf too
        if len(bad):
            row = start + int(bad[0])
            utterance = ids[int(np.searchsorted(offsets, row, side="right")) - 1]
            if not np.isfinite(sums[bad[0]]):
                return f"for {utterance} has NaN or +inf"
            return f"for {utterance} has a frame with probabilities that sum to {sums[bad[0]]:.3g}, not 1"
    return ""


class _LogProbsHeader(msgspec.Struct):
    ids_hash: str
    alphabet: str
    blank: Count
    stride: Positive
    checksum: str | None = None
    """Checksum of the contents; files written by versions up to 0.1 have none."""


def read_log_probs(path: Path) -> LogProbs:
    """Read the predictions of one split.

    The first time a file is read in this process, its contents are compared with their checksum; without one, they
    must at least be log-probabilities. Raises InputError for a file that is missing, damaged or inconsistent, OSError
    for one that cannot be read.
    """
    again = "delete it and run folds.train with --resume"
    try:
        status = path.stat()
        with open_tensors(path, "numpy") as file:
            header = file.metadata() or {}
            version = header.get("schema")
            if version != SCHEMA_VERSION:
                raise InputError(f"{path}: schema {version}, expected {SCHEMA_VERSION}: train this model again")
            described = convert(header, _LogProbsHeader, str(path), "train this model again", strict=False)
            tensors = {name: file.get_tensor(name) for name in ("log_probs", "offsets", "ids")}
        ids = _check_shapes(path, tensors, described)
    except FileNotFoundError:
        message = f"{path}: no such file: this run is not finished; continue it with folds.train --resume"
        raise InputError(message) from None
    except (SafetensorError, UnicodeDecodeError, TypeError) as error:  # TypeError: a dtype that NumPy lacks
        raise InputError(f"{path}: damaged ({one_line(error)}): {again}") from None
    values, offsets = tensors["log_probs"], tensors["offsets"]
    version_read = (str(path), status.st_size, status.st_mtime_ns)
    if version_read not in _intact:
        if described.checksum is None:
            if fault := _find_fault(values, offsets, ids):
                raise InputError(f"{path}: damaged (the prediction {fault}): {again}")
        elif _checksum(tensors, described) != described.checksum:
            raise InputError(f"{path}: damaged (the contents do not match their checksum): {again}")
        _intact.add(version_read)
    return LogProbs(values, offsets, ids, described.alphabet, described.blank, described.stride)


def _check_shapes(path: Path, tensors: Mapping[str, np.ndarray], described: _LogProbsHeader) -> tuple[str, ...]:
    """The utterances' ids. Raises InputError if types, shapes, offsets and header are inconsistent."""
    values, offsets, text = tensors["log_probs"], tensors["offsets"], tensors["ids"]
    types = (values.dtype, offsets.dtype, text.dtype) == (np.float16, np.int64, np.uint8)
    if not types or (values.ndim, offsets.ndim, text.ndim) != (2, 1, 1):
        found = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in tensors.items())
        raise InputError(
            f"{path}: {found}; expected (T, C) float16, (N + 1,) int64 and (bytes,) uint8: train this model again"
        )
    joined = text.tobytes().decode()
    ids = tuple(joined.split("\n")) if joined else ()
    increasing = len(offsets) == len(ids) + 1 and offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
    if not increasing or offsets[-1] != len(values) or ids_hash(ids) != described.ids_hash:
        raise InputError(f"{path}: offsets, rows and utterances do not match: delete it and train this model again")
    if described.blank >= values.shape[1]:
        raise InputError(f"{path}: the blank is class {described.blank} of {values.shape[1]}: train this model again")
    return ids
