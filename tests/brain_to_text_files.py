"""Files in the form of Brain-to-Text '25, written with h5py as the organisers describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

WIDTH = 6
SESSIONS = ("t15.2023.08.11", "t15.2023.08.13", "t15.2024.01.02")
# The classes of the competition by name, as its baseline lists them.
LISTED = (
    "BLANK AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH |"
)
PHONEMES = LISTED.split()
SPOKEN = "HH AH L OW | W ER L D |"
HELLO = [PHONEMES.index(name) for name in SPOKEN.split()]


def trial(file: h5py.File, number: int, frames: int, labels: list[int] | None, text: str, **attributes: Any) -> None:
    """One trial, as the facts have it; `labels` None for test."""
    group = file.create_group(f"trial_{number:04d}")
    random = np.random.default_rng([number, frames])
    group.create_dataset("input_features", data=random.normal(size=(frames, WIDTH)).astype(np.float32))
    group.attrs["n_time_steps"] = frames
    group.attrs["block_num"], group.attrs["trial_num"], group.attrs["session"] = 3, number, "t15"
    if labels is not None:
        padded = np.zeros(500, np.int32)
        padded[: len(labels)] = labels
        group.create_dataset("seq_class_ids", data=padded)
        codes = np.zeros(500, np.int32)
        codes[: len(text)] = [ord(character) for character in text]
        group.create_dataset("transcription", data=codes)
        group.attrs["seq_len"], group.attrs["sentence_label"] = len(labels), text
    for name, value in attributes.items():
        group.attrs[name] = value


def brain_to_text(root: Path) -> None:
    """Three sessions with two trials per file; the last one, a short one, has training trials alone."""
    for session in SESSIONS:
        folder = root / "hdf5_data_final" / session
        folder.mkdir(parents=True)
        for split in ("train", "val", "test") if session != SESSIONS[2] else ("train",):
            with h5py.File(folder / f"data_{split}.hdf5", "w") as file:
                labels = None if split == "test" else HELLO
                # Written in the wrong order: the order is that of the keys.
                trial(file, 1, 40, labels, "Hello world.")
                trial(file, 0, 30, labels, "Hello world.")
