"""A blend's hypotheses and their posteriors as a file, to train a student or to adapt a network to speakers.

`ensemble.blend --nbest-out` writes it; `folds.train --teacher` and `folds.adapt --hypotheses` read it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from folds.store.log_probs import ids_hash
from folds.store.ragged import Ragged
from folds.store.run_folder import SPLITS
from registry import InputError
from registry.files import read_regular
from registry.tensor_files import write_serialized

SCHEMA_VERSION = 2


@dataclass(frozen=True, eq=False)
class NBestHypotheses:
    """The hypotheses of N utterances of one split in flat arrays of H entries."""

    ids: tuple[str, ...]
    """The N utterances."""
    offsets: np.ndarray
    """`(N + 1,)` int64: utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, at least one."""
    tokens: Ragged
    """The hypotheses, int16 classes."""
    posteriors: np.ndarray
    """Their posteriors, `(H,)` float32; those of an utterance sum to 1."""


@dataclass(frozen=True, eq=False)
class NBestFile:
    """Hypotheses of training utterances (out of fold), dev and test, and what they were made for."""

    oof: NBestHypotheses
    dev: NBestHypotheses
    test: NBestHypotheses
    data: str
    """`Dataset.hash` of the competition."""
    alphabet: str
    """`Alphabet.hash` of the alphabet that the classes belong to."""


def write_nbest_file(path: Path, file: NBestFile) -> None:
    """Write the hypotheses of all splits."""
    tensors = {"schema": np.array([SCHEMA_VERSION])}
    for name, text in (("data", file.data), ("alphabet", file.alphabet)):
        tensors[name] = _as_bytes(text)
    for split in SPLITS:
        hypotheses: NBestHypotheses = getattr(file, split)
        tensors |= {
            f"{split}.ids": _as_bytes("\n".join(hypotheses.ids)),
            f"{split}.ids_hash": _as_bytes(ids_hash(hypotheses.ids)),
            f"{split}.offsets": np.ascontiguousarray(hypotheses.offsets, np.int64),
            f"{split}.tokens": np.ascontiguousarray(hypotheses.tokens.values, np.int16),
            f"{split}.token_offsets": np.ascontiguousarray(hypotheses.tokens.offsets, np.int64),
            f"{split}.posteriors": np.ascontiguousarray(hypotheses.posteriors, np.float32),
        }
    write_serialized(path, to_bytes(tensors))


def file_hash(path: Path) -> str:
    """SHA-256 of an N-best file. Raises InputError if there is none."""
    return hashlib.sha256(_read(path)).hexdigest()


def read_nbest_file(path: Path) -> NBestFile:
    """Read an N-best file. Raises InputError for one that is missing, damaged or inconsistent."""
    try:
        tensors = from_bytes(_read(path))
        if tensors["schema"].tolist() != [SCHEMA_VERSION]:
            raise InputError(f"{path}: written by another version: blend again with --nbest-out")
        oof, dev, test = (_hypotheses(tensors, split) for split in SPLITS)
        return NBestFile(oof, dev, test, _as_text(tensors["data"]), _as_text(tensors["alphabet"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: incomplete, or not a file of ensemble.blend --nbest-out ({error}): blend again with --nbest-out"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): blend again with --nbest-out") from None


def _hypotheses(tensors: dict[str, np.ndarray], split: str) -> NBestHypotheses:
    """The hypotheses of one split. Raises ValueError if its arrays contradict each other."""
    text, posteriors = _as_text(tensors[f"{split}.ids"]), tensors[f"{split}.posteriors"]
    _check_types(tensors, split)
    ids = tuple(text.split("\n")) if text else ()
    offsets = tensors[f"{split}.offsets"]
    tokens = Ragged(tensors[f"{split}.tokens"], tensors[f"{split}.token_offsets"])
    if ids_hash(ids) != _as_text(tensors[f"{split}.ids_hash"]):
        raise ValueError(f"the utterances of {split} do not match their hash")
    if not (_divides(offsets, len(ids), len(tokens)) and (np.diff(offsets) > 0).all()):
        raise ValueError(f"the offsets of {split} do not assign hypotheses to each utterance")
    if not (_divides(tokens.offsets, len(posteriors), len(tokens.values)) and (tokens.values > 0).all()):
        raise ValueError(f"the hypotheses of {split} do not match their tokens")
    if not (np.isfinite(posteriors) & (posteriors >= 0)).all():
        raise ValueError(f"the posteriors of {split} are not all finite and non-negative")
    return NBestHypotheses(ids, offsets, tokens, posteriors)


def _check_types(tensors: dict[str, np.ndarray], split: str) -> None:
    """Raise ValueError for an array whose type is not the one that `write_nbest_file` writes."""
    types = {"offsets": np.int64, "tokens": np.int16, "token_offsets": np.int64, "posteriors": np.float32}
    for name, expected in types.items():
        array = tensors[f"{split}.{name}"]
        if array.dtype != expected or array.ndim != 1 or ("offsets" in name and not len(array)):
            raise ValueError(f"{split}.{name} is {array.dtype} {array.shape}, not a list of {np.dtype(expected)}")


def _divides(offsets: np.ndarray, parts: int, values: int) -> bool:
    """Whether the offsets divide this many values into this many parts."""
    whole = len(offsets) == parts + 1 and offsets[0] == 0 and offsets[-1] == values
    return bool(whole and (np.diff(offsets) >= 0).all())


def _as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(characters: np.ndarray) -> str:
    return characters.tobytes().decode()
