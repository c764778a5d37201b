"""The registry of front ends, each a function from samples to features, and which of them made a competition's data.

Competitions publish features, not audio, so a trained model can transcribe a recording only with the front end that
made its data. A new one is a file in this folder, or a function under the entry-point group `hw3p2_frontends`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from registry.errors import InputError
from registry.registry import Registry

SAMPLE_RATE = 16_000
"""Samples per second that every front end expects."""
FRAME_SHIFT = 0.01
"""Seconds from one frame of features to the next."""
WINDOW = 0.025
"""Seconds of audio that a frame covers; the first frame's window begins with the first sample."""

FrontEnd = Callable[[np.ndarray], np.ndarray]
"""Samples `(S,)` float32 at 16 kHz with full scale 1, at least one window, to features `(T, F)` float32."""

FRONT_ENDS: Registry[FrontEnd] = Registry("frontends", package="folds.frontends")


def register_front_end(
    name: str, features: int, *, marker: str = "", data: Iterable[str] = ()
) -> Callable[[FrontEnd], FrontEnd]:
    """Register a function as the front end `name`, which computes `features` values per frame.

    Data whose folder has the file `marker`, or whose `Dataset.hash` is one of `data`, are known to be made by it.
    """
    return FRONT_ENDS.register(name, features=features, marker=marker, data=tuple(data))


def front_end_of(data_hash: str | None, root: Path | None = None) -> str | None:
    """The name of the front end that made the data with this hash, or in the folder `root`; None if unknown."""
    for name in FRONT_ENDS.names():
        info = FRONT_ENDS.entry(name).info
        marked = root is not None and info.get("marker") and (root / info["marker"]).is_file()
        if marked or data_hash in info.get("data", ()):
            return name
    return None


def compute_features(name: str, samples: np.ndarray) -> np.ndarray:
    """Features `(T, F)` of samples from the front end `name`. Raises InputError if it is unknown, or fails."""
    with FRONT_ENDS.using(name):
        features = np.asarray(FRONT_ENDS.get(name)(samples))
    expected = FRONT_ENDS.entry(name).info.get("features")
    if features.ndim != 2 or (expected is not None and features.shape[1] != expected):
        raise InputError(f"front end {name}: made features of shape {features.shape}; expected (T, {expected})")
    return features.astype(np.float32, copy=False)
