"""Features packed once, so that an epoch reads no files: one memory-mapped safetensors file for a competition's data.

Packing reads each file once, checks it, normalises it and appends it; a fault anywhere is an `InputError` and leaves no
cache. The file is keyed by the names, sizes and times of what it was made from, appears whole or not at all, and is
made again when it is found damaged. Loading maps the features: pages come from the disk as a batch asks for them, and
processes on one machine share them. No model's frame rate is known here: `too_short` is for whoever knows it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from folds.alphabets import Alphabet
from folds.competition import Competition, Utterances, open_competition
from registry.errors import InputError, atomic_write

SCHEMA = 1
CACHE_VARIABLE = "HW3P2_CACHE"
# Room for the header, which is known only after the features have been written; spaces fill the rest of it.
_HEADER_BYTES = 8 + 4088
_CHUNK = 1 << 22
# How much of the features is checked against its sums at each load. A damaged disk shows in the rest only by luck, but
# a load must not read 4 GB; the usual damage, a file cut short, always shows in its size.
_CHECKED_CHUNKS = 32


@dataclass(frozen=True)
class Split:
    """One split, packed: utterance `i` is rows `offsets[i]:offsets[i + 1]` of `frames`, and so for its tokens."""

    name: str
    ids: tuple[str, ...]
    frames: np.ndarray
    """`(sum of T, F)` float32, normalised per utterance; read-only and mapped from the disk."""
    offsets: np.ndarray
    """`(N + 1,)` int64."""
    tokens: np.ndarray | None = None
    """`(sum of L,)` int16 classes, never 0 (the blank); None for a split without transcripts."""
    token_offsets: np.ndarray | None = None
    """`(N + 1,)` int64."""

    def __len__(self) -> int:
        return len(self.ids)

    def features(self, index: int) -> np.ndarray:
        """`(T, F)` float32 of one utterance, a view."""
        return self.frames[self.offsets[index] : self.offsets[index + 1]]

    def labels(self, index: int) -> np.ndarray:
        """`(L,)` int16 of one utterance, a view. `ValueError` where the split has no transcripts."""
        if self.tokens is None:
            raise ValueError(f"the {self.name} split has no transcripts")
        return self.tokens[self.token_offsets[index] : self.token_offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance, `(N,)` int64."""
        return np.diff(self.offsets)

    @property
    def speakers(self) -> list[str]:
        """The speaker of each utterance: the first field of a LibriSpeech id."""
        return [utterance.split("-", 1)[0] for utterance in self.ids]


@dataclass(frozen=True)
class Dataset:
    """A competition, packed and checked."""

    root: Path
    format: str
    alphabet: Alphabet
    features: int
    """Feature dimension `F`, as read from the data."""
    header: tuple[str, str]
    """Column names of a submission."""
    sample_ids: list[str]
    """Ids of a submission's rows in file order, which is the order of `test`."""
    train: Split
    dev: Split
    test: Split
    hash: str
    """16 hexadecimal digits of the contents; the same data in another place has the same."""
    path: Path = field(compare=False)
    """The cache file."""


def load_dataset(
    root: Path, cache: Path | None = None, allow_pickle: bool = False, progress: bool = True
) -> Dataset:
    """The data of the competition's folder `root`, from the cache, which is made first where it is missing.

    The cache lies in `cache`, else $HW3P2_CACHE, else `hw3p2` in the user's cache folder. Raises `InputError` naming
    the first file at fault and the number of others.

    >>> dataset = load_dataset(Path("demo/competition"))       # doctest: +SKIP
    >>> dataset.train.features(0).shape                         # doctest: +SKIP
    (642, 28)
    """
    competition = open_competition(root, allow_pickle)
    folder = cache_folder(cache)
    path = folder / f"{_key(competition)}.safetensors"
    dataset = _read(path, competition)
    if dataset is None:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            # Another process may have packed the same data while this one waited.
            dataset = _read(path, competition)
            if dataset is None:
                _pack(path, competition, progress)
                dataset = _read(path, competition)
    if dataset is None:
        raise InputError(f"{path}: the cache was written and reads back damaged; check the disk, or set {CACHE_VARIABLE}")
    return dataset


def cache_folder(option: Path | None = None) -> Path:
    """Where caches lie: the option, else $HW3P2_CACHE, else `hw3p2` in the user's cache folder."""
    if option is not None:
        return Path(option)
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "hw3p2"


def too_short(split: Split, output_lengths: np.ndarray) -> np.ndarray:
    """Indices of utterances whose labels cannot be emitted in their output frames `(N,)`.

    CTC needs a frame a label, and one for the blank between two equal neighbours; with fewer the loss is infinite.
    """
    output_lengths = np.asarray(output_lengths)
    if output_lengths.shape != (len(split),):
        raise ValueError(f"output lengths of shape {output_lengths.shape} for {len(split)} utterances")
    tokens, offsets = split.tokens, split.token_offsets
    repeats = np.concatenate([[0], np.cumsum(tokens[1:] == tokens[:-1])]) if len(tokens) else np.zeros(1, np.int64)
    # repeats[j] counts the equal neighbours up to token j; pairs that straddle two utterances do not count.
    inside = repeats[offsets[1:] - 1] - repeats[offsets[:-1]]
    return np.flatnonzero(output_lengths < np.diff(offsets) + inside)


def _key(competition: Competition) -> str:
    """Hash of what the cache depends on. Contents are not read: a changed file has another size or time."""
    digest = hashlib.sha256(json.dumps([SCHEMA, competition.format, competition.alphabet.hash]).encode())
    for split in competition.splits:
        digest.update(json.dumps([split.name, split.ids]).encode())
        for file in split.files:
            status = file.stat()
            name = file.relative_to(competition.root).as_posix()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process pack at a time: five folds started at once should not each read 60,000 files."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        # Some network file systems have no locks. Packing twice is only slow: the file is moved into place whole.
        yield
        return
    try:
        yield
    finally:
        lock.release()


class _Faults:
    """The first fault and the number of others, since 28,000 files may share one."""

    def __init__(self) -> None:
        self.first, self.count = "", 0

    def add(self, message: str) -> None:
        self.first, self.count = self.first or message, self.count + 1

    def raise_any(self) -> None:
        if self.count:
            others = f" ({self.count - 1} more like it or worse)" if self.count > 1 else ""
            raise InputError(self.first + others)


def _pack(path: Path, competition: Competition, progress: bool) -> None:
    """Write the cache of a competition, checking all of it."""
    total = sum(len(split.ids) for split in competition.splits)
    faults, dimensions = _Faults(), Counter()
    first_of: dict[int, str] = {}
    small: dict[str, np.ndarray] = {}
    spans: dict[str, int] = {}
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(b" " * _HEADER_BYTES)
        sums: list[int] = []
        writer = _Summed(file, sums)
        with tqdm(total=total, desc="packing features", unit="utt", disable=None if progress else True) as bar:
            for split in competition.splits:
                lengths, tokens = [], []
                for index in range(len(split.ids)):
                    bar.update()
                    try:
                        features = _checked(split, index)
                        dimensions[features.shape[1]] += 1
                        first_of.setdefault(features.shape[1], split.place(index))
                        if split.labels is not None:
                            tokens.append(_checked_labels(split, index))
                    except InputError as error:
                        faults.add(str(error))
                        continue
                    if not faults.count and len(dimensions) == 1:
                        writer.write(_normalised(features))
                        lengths.append(len(features))
                spans[split.name] = sum(lengths)
                small[f"{split.name}.offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
                small[f"{split.name}.ids"] = np.frombuffer("\n".join(split.ids).encode(), dtype=np.uint8)
                if split.labels is not None:
                    small[f"{split.name}.tokens"] = np.concatenate([np.zeros(0, np.int16), *tokens])
                    small[f"{split.name}.token_offsets"] = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        _one_dimension(dimensions, first_of, faults)
        faults.raise_any()
        writer.finish()
        small["sums"] = np.array(sums, dtype=np.uint32)
        _finish(file, spans, next(iter(dimensions)), small)


def _checked(split: Utterances, index: int) -> np.ndarray:
    """Features `(T, F)` of an utterance, or an `InputError` about them."""
    features = split.features(index)
    place = split.place(index)
    if features.ndim != 2 or features.dtype.kind != "f":
        raise InputError(
            f"{place}: found shape {features.shape} of {features.dtype}; expected floating-point features "
            f"(frames, features); write the file again or remove the utterance"
        )
    if 0 in features.shape:
        raise InputError(
            f"{place}: an empty array of shape {features.shape}; expected at least one frame of features; "
            f"write the file again or remove the utterance"
        )
    if not np.isfinite(features).all():
        frame, column = np.argwhere(~np.isfinite(features))[0]
        raise InputError(
            f"{place}: {features[frame, column]} at frame {frame}, feature {column}; expected finite numbers; "
            f"write the file again or remove the utterance"
        )
    return features


def _checked_labels(split: Utterances, index: int) -> np.ndarray:
    labels = split.labels(index)
    if not len(labels):
        raise InputError(
            f"the transcript of {split.place(index)} is empty; expected at least one phoneme between [SOS] and [EOS]; "
            f"write it again or remove the utterance"
        )
    return labels


def _one_dimension(dimensions: Counter[int], first_of: dict[int, str], faults: _Faults) -> None:
    """All features have one dimension; the odd one out is named against what most files have."""
    if len(dimensions) < 2:
        return
    (usual, many), *rest = dimensions.most_common()
    odd = sum(count for _, count in rest)
    for dimension, _ in rest[:1]:
        faults.add(
            f"{first_of[dimension]}: {dimension} features a frame; expected {usual}, as in {many} other files "
            f"({odd} differ); remove it or make all of one kind"
        )


def _normalised(features: np.ndarray) -> np.ndarray:
    """`(x - mean over time) / (std over time + 1e-8)`, summed in float64 so that a constant feature becomes 0."""
    wide = features.astype(np.float64)
    return ((wide - wide.mean(axis=0)) / (wide.std(axis=0) + 1e-8)).astype("<f4")


class _Summed:
    """Writes bytes through and keeps a CRC-32 of every chunk of them."""

    def __init__(self, file: BinaryIO, sums: list[int]) -> None:
        self.file, self.sums, self.held = file, sums, bytearray()

    def write(self, array: np.ndarray) -> None:
        self.held += array.tobytes()
        while len(self.held) >= _CHUNK:
            self._emit(_CHUNK)

    def finish(self) -> None:
        if self.held:
            self._emit(len(self.held))

    def _emit(self, size: int) -> None:
        chunk = bytes(self.held[:size])
        del self.held[:size]
        self.sums.append(zlib.crc32(chunk))
        self.file.write(chunk)


def _finish(file: BinaryIO, spans: dict[str, int], features: int, small: dict[str, np.ndarray]) -> None:
    """Append the small arrays and fill in the header, which the safetensors format puts first."""
    header: dict[str, dict] = {}
    at = 0

    def entry(name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
        nonlocal at
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size

    for name, frames in spans.items():
        entry(f"{name}.frames", "F32", (frames, features), 4 * frames * features)
    for name, array in small.items():
        file.write(array.tobytes())
        entry(name, _DTYPES[array.dtype.str], array.shape, array.nbytes)
    content = hashlib.sha256(b"".join(array.tobytes() for array in small.values())).hexdigest()[:16]
    header["__metadata__"] = {"schema": str(SCHEMA), "hash": content}
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > _HEADER_BYTES - 8:
        raise AssertionError("the header does not fit its room")
    file.seek(0)
    file.write(struct.pack("<Q", _HEADER_BYTES - 8) + text.ljust(_HEADER_BYTES - 8))


_DTYPES = {"<i8": "I64", "<i2": "I16", "|u1": "U8", "<u4": "U32"}


def _read(path: Path, competition: Competition) -> Dataset | None:
    """Map a cache; None when there is none, or when it is not whole, so that it is made again."""
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size != _HEADER_BYTES - 8:
                return None
            header = json.loads(file.read(size))
        content = header.pop("__metadata__")["hash"]
        if path.stat().st_size != 8 + size + max(entry["data_offsets"][1] for entry in header.values()):
            return None
        data = np.memmap(path, dtype=np.uint8, mode="r")[8 + size :]
    except (OSError, ValueError, struct.error, KeyError, TypeError):
        return None
    numpy_dtypes = {"F32": "<f4"} | {ours: numpy for numpy, ours in _DTYPES.items()}
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        raw = data[start:end]
        # Only the features stay mapped: the rest is small, and copying it mends its alignment.
        raw = raw if name.endswith(".frames") else np.array(raw)
        arrays[name] = raw.view(numpy_dtypes[entry["dtype"]]).reshape(entry["shape"])
    small = {name: array for name, array in arrays.items() if not name.endswith(".frames")}
    if hashlib.sha256(b"".join(array.tobytes() for array in small.values())).hexdigest()[:16] != content:
        return None
    frames_end = max(entry["data_offsets"][1] for name, entry in header.items() if name.endswith(".frames"))
    sums = arrays["sums"]
    for chunk in np.unique(np.linspace(0, len(sums) - 1, min(len(sums), _CHECKED_CHUNKS)).astype(int)):
        if zlib.crc32(data[chunk * _CHUNK : min((chunk + 1) * _CHUNK, frames_end)]) != sums[chunk]:
            return None
    splits = [
        Split(
            name,
            tuple(bytes(arrays[f"{name}.ids"]).decode().split("\n")),
            arrays[f"{name}.frames"],
            arrays[f"{name}.offsets"],
            arrays.get(f"{name}.tokens"),
            arrays.get(f"{name}.token_offsets"),
        )
        for name in ("train", "dev", "test")
    ]
    return Dataset(
        competition.root, competition.format, competition.alphabet, arrays["train.frames"].shape[1],
        competition.header, list(competition.test_rows), *splits, content, path,
    )
