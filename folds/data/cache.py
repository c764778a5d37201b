"""Features packed once, so that an epoch reads no files: a competition's data as one memory-mapped file.

Packing reads each file once, checks it, normalises it and appends it; a fault anywhere is an `InputError` and leaves no
cache. The file is keyed by the names, sizes and times of what it was made from, appears whole or not at all, and is
made again when it is found damaged. Loading maps the features: pages come from the disk as a batch asks for them, and
processes on one machine share them. No model's frame rate is known here: `too_short` is for whoever knows it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from folds.competition.description import Competition
from folds.competition.detect import open_competition
from folds.data.dataset import Dataset, Split
from folds.data.packed_file import PackWriter, open_packed
from folds.data.validation import Faults, FeatureDimensions, checked_features, checked_labels
from models.features import normalize
from registry.errors import InputError, atomic_write

# Goes up when the meaning of the packed numbers changes, so that older caches are not read.
SCHEMA = 1
CACHE_VARIABLE = "HW3P2_CACHE"






def load_dataset(
    root: Path, cache: Path | None = None, allow_pickle: bool = False, progress: bool = True
) -> Dataset:
    """The data of the competition's folder `root`, from the cache, which is made first where it is missing.

    The cache lies in `cache`, else $HW3P2_CACHE, else `hw3p2` in the user's cache folder. Raises `InputError` naming
    the first file at fault and the number of others; `allow_pickle` is explained at `open_competition`.

    >>> dataset = load_dataset(Path("demo/competition"))        # doctest: +SKIP
    >>> dataset.train.features(0).shape                         # doctest: +SKIP
    (642, 28)
    """
    competition = open_competition(root, allow_pickle)
    path = cache_folder(cache) / f"{_key(competition)}.safetensors"
    packed = open_packed(path)
    if packed is None:
        packed = _make(path, competition, progress)
    return _dataset(competition, packed, path)


def cache_folder(option: Path | None = None) -> Path:
    """Where caches lie: the option, else $HW3P2_CACHE, else `hw3p2` in the user's cache folder."""
    if option is not None:
        return Path(option)
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "hw3p2"




def _key(competition: Competition) -> str:
    """Hash of what the cache depends on. Contents are not read: a changed file has another size or time."""
    digest = hashlib.sha256(json.dumps([SCHEMA, competition.format, competition.alphabet.hash]).encode())
    for split in competition.splits:
        digest.update(json.dumps([split.name, split.ids]).encode())
        for name in split.files:
            status = os.stat(f"{competition.root}/{name}")
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _make(path: Path, competition: Competition, progress: bool) -> dict[str, np.ndarray]:
    """Pack a competition, or wait for another process that is packing the same, and open the result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            packed = open_packed(path)
            if packed is None:
                _pack(path, competition, progress)
                packed = open_packed(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise InputError(
            f"{path.parent}: the features cannot be cached there ({error.strerror}); expected a folder that can be "
            f"written; set {CACHE_VARIABLE} to one"
        ) from None
    if packed is None:
        raise InputError(
            f"{path}: written just now and already damaged; expected what was written; check the disk, or set "
            f"{CACHE_VARIABLE} to a folder on another"
        )
    return packed


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
        # Whoever left these was killed while packing: it no longer holds the lock.
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _pack(path: Path, competition: Competition, progress: bool) -> None:
    """Check all of a competition and write its cache; the first fault is raised when all have been counted."""
    faults, dimensions = Faults(), FeatureDimensions()
    small: dict[str, np.ndarray] = {}
    total = sum(len(split.ids) for split in competition.splits)
    with (
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        tqdm(total=total, desc="packing features", unit="utt", disable=None if progress else True) as bar,
    ):
        writer = PackWriter(file)
        for split in competition.splits:
            lengths, tokens = [], []
            for index in range(len(split.ids)):
                bar.update()
                try:
                    features = checked_features(split, index)
                    dimensions.add(features.shape[1], split.place(index))
                    if split.labels is not None:
                        tokens.append(checked_labels(split, index))
                except InputError as error:
                    faults.add(str(error))
                if not faults and dimensions.agree:
                    writer.stream(normalize(features))
                    lengths.append(len(features))
            small[f"{split.name}.offsets"] = np.cumsum([0, *lengths], dtype="<i8")
            if split.labels is not None:
                small[f"{split.name}.tokens"] = np.concatenate([np.zeros(0, "<i2"), *tokens])
                small[f"{split.name}.token_offsets"] = np.cumsum([0, *map(len, tokens)], dtype="<i8")
            if not faults and dimensions.agree:
                writer.name(f"{split.name}.frames", (sum(lengths), dimensions.usual))
        dimensions.report(faults)
        faults.raise_any()
        writer.finish(small)


def _dataset(competition: Competition, packed: dict[str, np.ndarray], path: Path) -> Dataset:
    digest = hashlib.sha256(competition.alphabet.hash.encode())
    splits = []
    for utterances in competition.splits:
        parts = [packed.get(f"{utterances.name}.{part}") for part in ("frames", "offsets", "tokens", "token_offsets")]
        splits.append(Split(utterances.name, utterances.ids, *parts))
        digest.update("\0".join(utterances.ids).encode(errors="surrogateescape"))
        for small in parts[1:]:
            digest.update(b"" if small is None else small.tobytes())
    return Dataset(
        root=competition.root,
        format=competition.format,
        alphabet=competition.alphabet,
        features=packed["train.frames"].shape[1],
        header=competition.header,
        sample_ids=list(competition.test_rows),
        train=splits[0],
        dev=splits[1],
        test=splits[2],
        hash=digest.hexdigest()[:16],
        path=path,
    )
