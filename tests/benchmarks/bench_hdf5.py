"""Memory and time of packing HDF5 files of Brain-to-Text's form against their size; a script, not a test.

    python tests/benchmarks/bench_hdf5.py --gigabytes 0.25 2

Each size is packed by a process of its own, whose peak of memory includes Python, its libraries, and the pages of the
finished cache that are mapped to check it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
from bench_scale import run_stage, size_of

from folds.competition.formats.brain_to_text import FILES, FOLDER

FRAMES, CHANNELS, SESSIONS = 500, 512, 8
"""Frames per trial, features per frame, days: 1 MB per trial."""


def make_files(root: Path, gigabytes: float) -> int:
    """Random features and labels; of ten trials, one is for validation and one for test. The number of trials."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((4 * FRAMES, CHANNELS), dtype=np.float32)
    trials = max(10, round(gigabytes * 1e9 / (FRAMES * CHANNELS * 4) / SESSIONS))
    shares = {"train": trials - 2 * (trials // 10), "dev": trials // 10, "test": trials // 10}
    for session in range(SESSIONS):
        folder = root / FOLDER / f"t15.2023.08.{10 + session}"
        folder.mkdir(parents=True)
        for split, count in shares.items():
            with h5py.File(folder / FILES[split], "w") as file:
                for number in range(count):
                    start = int(random.integers(3 * FRAMES))
                    group = file.create_group(f"trial_{number:04d}")
                    group["input_features"] = noise[start : start + FRAMES]
                    group.attrs["n_time_steps"] = FRAMES
                    if split != "test":
                        group["seq_class_ids"] = random.integers(1, 41, 40).astype(np.int32)
                        group.attrs["seq_len"], group.attrs["sentence_label"] = 40, "a sentence of words"
    return SESSIONS * trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 2.0])
    for gigabytes in parser.parse_args().gigabytes:
        with tempfile.TemporaryDirectory() as scratch:
            data, cache = Path(scratch) / "data", Path(scratch) / "cache"
            trials = make_files(data, gigabytes)
            seconds, peak = run_stage("pack", data, data, cache)
            print(
                f"{size_of(data, '*.hdf5') / 1000:.2f} GB of HDF5, {trials} trials: packed in {seconds:.0f} CPU-s, "
                f"peak {peak:.0f} MiB, cache {size_of(cache, '*') / 1000:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
