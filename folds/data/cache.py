"""The cache: a competition's data packed once into one memory-mapped file, so that an epoch reads no small files.

Packing reads each file once, checks it, normalises it and appends it; any fault raises InputError and leaves no cache.
The cache is keyed by the names, sizes and modification times of the files it was made from, and by the source code of
the competition's class; it is written atomically, and rebuilt if it is damaged. Loading memory-maps the features: pages
are read from disk when a batch needs them, and processes on one machine share them.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from folds.competition.base import Competition, SplitSource
from folds.competition.detect import open_competition
from folds.data.dataset import Dataset, Split
from folds.data.packed_file import PackWriter, open_packed
from folds.data.validation import Faults, FeatureDimensions, checked_features, checked_labels, checked_text
from folds.store.ragged import Ragged, offsets_of
from registry.console import ProgressBar
from registry.errors import InputError
from registry.files import atomic_write, check_folder, exists

# Increase this when the meaning of the packed numbers changes, so that older caches are not read.
SCHEMA_VERSION = 3
CACHE_VARIABLE = "HW3P2_CACHE"
_PATIENCE_S = 2.0
"""How long to wait for another process before printing a message."""
_BAD_FOLDER = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL),
)
"""Errors caused by a badly chosen cache folder; a full disk is not one of them."""


class _PackedBefore(Exception):
    """Another process has written the same cache in the meantime."""


def load_dataset(
    root: Path, cache: Path | None = None, allow_pickle: bool = False, progress: bool = True, smooth: float = 0.0
) -> Dataset:
    """The data of the competition's folder `root`, from the cache, which is built first if there is none.

    The cache is in `cache`, else in $HW3P2_CACHE, else in `hw3p2` in the user's cache folder. Raises InputError naming
    the first faulty file and the number of others; see `open_competition` for `allow_pickle`. With `smooth`, features
    are smoothed over time before normalisation, with a Gaussian of that standard deviation in frames.

    >>> dataset = load_dataset(Path("demo/competition"))        # doctest: +SKIP
    >>> dataset.train.features(0).shape                         # doctest: +SKIP
    (642, 28)
    """
    smooth = float(smooth)  # 2 and 2.0 differ as text, and text is hashed
    competition = open_competition(root, allow_pickle)
    path = cache_folder(cache) / f"{_key(competition, smooth)}.safetensors"
    packed = open_packed(path)
    if packed is None:
        packed = _make(path, competition, progress, smooth)
    return _dataset(competition, packed, path, smooth)


def cache_folder(option: Path | None = None) -> Path:
    """The folder of caches: `option`, else $HW3P2_CACHE, else `hw3p2` in the user's cache folder."""
    if option is not None:
        return Path(option)
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    try:
        user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without an entry in /etc/passwd and without HOME, as in a container
        raise InputError(f"no home folder for the cache of features: set {CACHE_VARIABLE} to a folder") from None
    return Path(user) / "hw3p2"


def _key(competition: Competition, smooth: float) -> str:
    """Hash of what the cache depends on. Contents are not read: a changed file has a different size or time."""
    reader = _source_hash(type(competition))
    facts = [SCHEMA_VERSION, competition.format, reader, competition.alphabet.hash, *([smooth] if smooth else [])]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for split in competition.splits:
        digest.update(json.dumps([split.name, split.ids]).encode())
        for name in split.files:
            status = os.stat(f"{competition.root}/{name}")
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _source_hash(kind: type[Competition]) -> str:
    """Hash of the source file of a competition's class, so that a corrected reader rebuilds the cache; "" if none."""
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):  # defined in a notebook or at a prompt
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and exists(Path(file)) else ""


def _make(path: Path, competition: Competition, progress: bool, smooth: float) -> dict[str, np.ndarray]:
    """Pack a competition, or wait for another process that is packing the same one, and open the result."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_folder(path.parent)
        with _locked(path):
            packed = open_packed(path)
            if packed is None:
                _pack(path, competition, progress, smooth)
                packed = open_packed(path)
    except OSError as error:
        if error.errno not in _BAD_FOLDER:
            raise
        raise InputError(
            f"{path.parent}: the features cannot be cached there ({error.strerror}); expected a writable folder; "
            f"set {CACHE_VARIABLE} to one"
        ) from None
    if packed is None:
        raise InputError(
            f"{path}: damaged right after it was written; check the disk, or set {CACHE_VARIABLE} to a folder on "
            "another disk"
        )
    return packed


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process pack at a time: five folds started at once should not each read 60,000 files."""
    # A soft lock, which is just a file, would outlive a killed process, and others would wait for it forever.
    lock = FileLock(f"{path}.lock", fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=_PATIENCE_S)
        except Timeout:
            print(f"waiting for the process that is packing the features into {path}", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError):
        # Some network file systems have no locks, or separate ones on each machine. Packing twice is only slow: the
        # first process to finish moves its complete file into place.
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _pack(path: Path, competition: Competition, progress: bool, smooth: float) -> None:
    """Check a whole competition and write its cache; the first fault is raised once all have been counted."""
    faults, dimensions = Faults(), FeatureDimensions()
    small: dict[str, np.ndarray] = {}
    total = sum(len(split.ids) for split in competition.splits)
    with (
        suppress(_PackedBefore),
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        ProgressBar("packing features", total) if progress else nullcontext() as bar,
    ):
        writer = PackWriter(file)
        for split in competition.splits:
            small |= _pack_split(split, writer, faults, dimensions, bar, smooth)
        dimensions.report(faults)
        faults.raise_any()
        writer.finish(small)
        if open_packed(path) is not None:
            # Another machine has written it and may be reading it: replacing it would break that on a network drive.
            raise _PackedBefore


def _pack_split(
    split: SplitSource,
    writer: PackWriter,
    faults: Faults,
    dimensions: FeatureDimensions,
    bar: ProgressBar | None,
    smooth: float,
) -> dict[str, np.ndarray]:
    """Stream a split's features to the cache as long as there are no faults; returns its small tensors by name."""
    from models.features import moments, smoothed, standardize  # imports PyTorch: takes seconds that a cache saves

    lengths, tokens, texts, statistics, digest = [], [], [], [], hashlib.sha256()
    for index in range(len(split.ids)):
        if bar is not None:
            bar.advance()
        location = split.location(index)
        try:
            features = checked_features(split.features(index), location)
            dimensions.add(features.shape[1], location)
            if split.labels is not None:
                tokens.append(checked_labels(split.labels(index), location))
            if split.text is not None:
                texts.append(checked_text(split.text(index), location))
        except InputError as error:
            faults.add(str(error))
        if not faults and dimensions.agree:
            digest.update(np.ascontiguousarray(features).data)
            features = smoothed(features, smooth)
            mean, deviation = moments(features)
            writer.stream(standardize(features, mean, deviation))
            lengths.append(len(features))
            statistics.append(np.array([mean, deviation], "<f4"))
    if not faults and dimensions.agree:
        writer.name(f"{split.name}.frames", (sum(lengths), dimensions.usual))
    split.close()
    small = {f"{split.name}.offsets": offsets_of(lengths)}
    small[f"{split.name}.digest"] = np.frombuffer(digest.digest(), np.uint8)
    if statistics and not faults and dimensions.agree:
        small[f"{split.name}.moments"] = np.stack(statistics, axis=1)
    if split.labels is not None:
        labels = Ragged.of(tokens, np.int16)
        small |= {f"{split.name}.tokens": labels.values, f"{split.name}.token_offsets": labels.offsets}
    if split.text is not None:
        encoded = [text.encode() for text in texts]
        small[f"{split.name}.texts"] = np.frombuffer(b"".join(encoded), np.uint8)
        small[f"{split.name}.text_offsets"] = offsets_of(map(len, encoded))
    return small


def _dataset(competition: Competition, packed: dict[str, np.ndarray], path: Path, smooth: float) -> Dataset:
    digest = hashlib.sha256(competition.alphabet.hash.encode())
    if smooth:
        digest.update(f"smooth {smooth}".encode())
    splits = []
    for source in competition.splits:
        name = source.name
        frames = Ragged(packed[f"{name}.frames"], packed[f"{name}.offsets"])
        digest.update("\0".join(source.ids).encode(errors="surrogateescape"))
        digest.update(frames.offsets.tobytes())
        tokens = None
        if source.labels is not None:
            tokens = Ragged(packed[f"{name}.tokens"], packed[f"{name}.token_offsets"])
            digest.update(tokens.values.tobytes())
            digest.update(tokens.offsets.tobytes())
        texts = None
        if source.text is not None:
            stored = Ragged(packed[f"{name}.texts"], packed[f"{name}.text_offsets"])
            texts = tuple(stored[index].tobytes().decode() for index in range(len(stored)))
        groups = tuple(map(competition.group, source.ids))
        means, deviations = packed[f"{name}.moments"]
        moments = means, deviations
        splits.append(Split(name, source.ids, frames, tokens, groups, competition.grouped_by, texts, moments))
    train, dev, test = splits
    features_digest = hashlib.sha256(b"".join(packed[f"{split.name}.digest"].data for split in splits))
    return Dataset(
        competition=competition,
        root=competition.root,
        format=competition.format,
        alphabet=competition.alphabet,
        features=train.frames.values.shape[1],
        header=competition.header,
        sample_ids=list(competition.test_rows),
        train=train,
        dev=dev,
        test=test,
        hash=digest.hexdigest()[:16],
        features_hash=features_digest.hexdigest()[:16],
        path=path,
    )
