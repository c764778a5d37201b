"""The store: runs/<model>/fold<k>/ with a member's configuration and log-probabilities. Only this file touches it.

Log-probabilities are float16 rows `[sum of T', C]` with int64 offsets `[N+1]` in safetensors, whose header names the
utterances, the alphabet, the blank, the stride and the schema version. Every file appears whole or not at all. It does
not train, decode or combine; and nothing in it is ever unpickled. An attention speller's scores of whole strings are
kept beside the log-probabilities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from registry import InputError, atomic_write

SCHEMA = "1"
SPLITS = ("oof", "dev", "test")


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


@dataclass(frozen=True, eq=False)
class Member:
    """One finished (model, fold, seed): what it is and where its predictions lie."""

    model: str
    fold: int
    folds: int
    seed: int
    path: Path
    parameters: int
    tags: tuple[str, ...]
    stride: int
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The weights that predict."""
        return self.path / "checkpoint" / "weights.safetensors"

    @property
    def finished(self) -> bool:
        """Whether all its predictions are there."""
        return _finished(self.path)

    @property
    def spells(self) -> bool:
        """Whether its attention speller can be asked: it has one, and its weights were copied along."""
        return self.config.get("speller", False) and self.weights.exists()

    @property
    def name(self) -> str:
        """Its folder's name, the model's with what `run_name` adds: members of one name are folds of one another."""
        return self.path.parent.name

    def load(self, split: str) -> LogProbs:
        """Log-probabilities of split "oof", "dev" or "test"."""
        return read_log_probs(self.path / f"{split}.safetensors")


def read_spelled(path: Path, weights: str) -> dict[str, dict[bytes, float]]:
    """What the speller with these `weights` (a hash) said before: log P(string | utterance) by utterance and string.

    Strings are class numbers as bytes. Nothing, where the file is missing, damaged, or of other weights.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("weights") != weights:
                return {}
            tokens, ids, scores = (file.get_tensor(name) for name in ("tokens", "ids", "scores"))
            ends, counts = file.get_tensor("token_offsets"), file.get_tensor("counts")
    except (SafetensorError, OSError):
        return {}
    flat = tokens.tobytes()
    strings = [flat[start:end] for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    found, at = {}, 0
    for name, count in zip(ids.tobytes().decode().split("\n"), counts.tolist(), strict=True):
        found[name] = dict(zip(strings[at : at + count], scores[at : at + count].tolist(), strict=True))
        at += count
    return found


def write_spelled(path: Path, weights: str, found: dict[str, dict[bytes, float]]) -> None:
    """Write what `read_spelled` reads."""
    strings = [string for scores in found.values() for string in scores]
    tensors = {
        "tokens": np.frombuffer(b"".join(strings), np.uint8),
        "token_offsets": np.concatenate([[0], np.cumsum([len(string) for string in strings])]).astype(np.int64),
        "scores": np.array([score for scores in found.values() for score in scores.values()], np.float32),
        "counts": np.array([len(scores) for scores in found.values()], np.int64),
        "ids": np.frombuffer("\n".join(found).encode(), np.uint8),
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata={"schema": SCHEMA, "weights": weights}))


def run_name(model: str, seed: int, folds: int = 2) -> str:
    """The folder of a (model, seed) in the store: `gru`, `gru.seed1`; `gru.all` with one fold, nothing held out."""
    return model + (f".seed{seed}" if seed else "") + (".all" if folds == 1 else "")


def run_dir(runs: Path, model: str, fold: int, seed: int = 0, folds: int = 2) -> Path:
    """The folder of a (model, fold, seed) in the store; see `run_name`."""
    return runs / run_name(model, seed, folds) / f"fold{fold}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON. Raises InputError for a missing or damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        message = f"{path}: not readable as JSON ({error}): delete this run's folder and train it again"
        raise InputError(message) from None


def find_members(runs: Path) -> list[Member]:
    """The finished members under `runs`, sorted by name and fold. Raises InputError when there is no such folder."""
    return [read_member(path) for path in _run_dirs(runs) if _finished(path)]


def read_member(path: Path) -> Member:
    """The run in the folder `path`, finished or not. Raises InputError for a config.json that lacks something."""
    config = read_json(path / "config.json")
    try:
        return Member(
            model=config["model"],
            fold=config["fold"],
            folds=config["folds"],
            seed=config["seed"],
            path=path,
            parameters=config["parameters"],
            tags=tuple(config["tags"]),
            stride=config["stride"],
            config=config,
        )
    except KeyError as error:
        message = f"{path / 'config.json'}: no {error}: delete this run's folder and train it again"
        raise InputError(message) from None


def unfinished(runs: Path) -> list[Path]:
    """Folders of runs that were begun and are not finished."""
    return [path for path in _run_dirs(runs) if not _finished(path)]


def _run_dirs(runs: Path) -> list[Path]:
    if not runs.is_dir():
        raise InputError(f"{runs}: no such folder of runs: train a model first (python -m folds.train), or give --runs")
    # Copies ("fold0.bak") are no runs.
    found = [config.parent for config in runs.glob("*/fold*/config.json") if config.parent.name[4:].isdecimal()]
    return sorted(found, key=lambda path: (path.parent.name, int(path.name.removeprefix("fold"))))


def _finished(path: Path) -> bool:
    return all((path / f"{split}.safetensors").exists() for split in SPLITS)
