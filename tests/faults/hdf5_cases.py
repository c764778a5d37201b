"""The table of damaged HDF5 files, in the form of Brain-to-Text '25."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from brain_to_text_files import SESSIONS
from faults import damage
from faults.cases import Case
from faults.damage import Damage
from faults.file_cases import damaged, whole_file
from faults.stage import TRAIN

TRIALS = f"brain/hdf5_data_final/{SESSIONS[1]}/data_train.hdf5"
BRAIN = ["--data", "brain", *TRAIN, "--epochs", "1", "--fold", "0", "--runs", "new"]


def hdf5_cases(flips: int) -> Iterator[Case]:
    """Trials of Brain-to-Text: damaged files, and whole ones with doubtful contents."""
    yield from whole_file("HDF5", TRIALS, "folds.train", BRAIN)
    for seed in range(flips):
        # The first 4 KiB are the superblock, the groups and the attributes of the first trial.
        ways = {"bit": damage.flip(seed), "header bit": damage.flip_in_header(seed, 4096)}
        ways["splice"] = damage.splice(seed)
        for name, how in ways.items():
            yield damaged("HDF5", f"{name} {seed}", TRIALS, "folds.train", BRAIN, how)
    for name, value in hdf5_attributes().items():
        for attribute in ("n_time_steps", "seq_len", "sentence_label"):
            how = _hdf5(lambda trial, at=attribute, value=value: trial.attrs.__setitem__(at, value))
            yield damaged("HDF5", f"{attribute} {name}", TRIALS, "folds.train", BRAIN, how)
    for name, value in hdf5_arrays().items():
        for dataset in ("input_features", "seq_class_ids", "transcription"):
            how = _hdf5(lambda trial, at=dataset, value=value: (trial.__delitem__(at), trial.__setitem__(at, value)))
            yield damaged("HDF5", f"{dataset} {name}", TRIALS, "folds.train", BRAIN, how)


def hdf5_attributes() -> dict[str, object]:
    """What an attribute may hold."""
    return {
        "negative": -1, "zero": 0, "huge": 2**62, "float": 1.5, "nan": float("nan"), "text": "x", "bytes": b"\xff",
        "list": [1, 2], "empty list": np.zeros(0), "long": "x" * 5000, "newline": "a\nb", "Boolean": True,
        "complex": 1j, "empty": h5py.Empty("f"), "empty text": "",
    }  # fmt: skip


def hdf5_arrays() -> dict[str, object]:
    """What may be in a dataset's place."""
    good = np.ones((30, 6), np.float32)
    return {
        "nan": good * np.nan, "inf": good * np.inf, "1e308": np.full((30, 6), 1e308), "ints": good.astype(int),
        "other width": good[:, :3], "one dimension": good[:, 0], "scalar": 1.0, "no rows": good[:0],
        "no features": good[:, :0], "three dimensions": good[None], "text": "x", "complex": good * 1j,
        "structures": np.ones(3, [("a", "f4")]), "references": np.array([h5py.Reference()], dtype=h5py.ref_dtype),
        "empty": h5py.Empty("f"), "soft link to nothing": h5py.SoftLink("/nothing"),
        "soft link to itself": h5py.SoftLink("/trial_0001/input_features"),
        "link to no file": h5py.ExternalLink("nothing.hdf5", "/x"),
        "link to a device": h5py.ExternalLink("/dev/zero", "/x"),
    }  # fmt: skip


def _hdf5(change: Callable[[h5py.Group], object]) -> Damage:
    def how(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file["trial_0001"])

    return how
