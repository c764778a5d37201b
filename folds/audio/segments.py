"""Split long recordings into utterances: cut where they are quietest, in constant memory.

Models read an utterance in both directions and normalise its features as a whole, as in training, where utterances
last seconds. A recording of minutes as one utterance would be unlike any of these, and need unbounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from folds.frontends.base import SAMPLE_RATE

_PAUSE = round(0.3 * SAMPLE_RATE)
"""A cut is made in the middle of the quietest stretch of this length."""
_LEAST = SAMPLE_RATE
"""No segment after a cut is shorter than this, a second: features are normalised per utterance."""


def split_at_pauses(blocks: Iterable[np.ndarray], max_seconds: float) -> Iterator[tuple[float, np.ndarray]]:
    """Segments of samples `(S,)` at 16 kHz, each preceded by its start time in seconds.

    Together they hold all the samples of `blocks`, each once. None is longer than `max_seconds`, which must be at least
    4. A recording that is not longer is one segment; a longer one is cut at the quietest place in the second half of
    that time.
    """
    longest = int(max_seconds * SAMPLE_RATE)
    waiting, start = np.zeros(0, np.float32), 0
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) > longest + _LEAST:
            cut = _quietest(waiting, longest // 2, longest)
            yield start / SAMPLE_RATE, waiting[:cut]
            waiting, start = waiting[cut:], start + cut
    if len(waiting) > longest:
        cut = _quietest(waiting, longest // 2, len(waiting) - _LEAST)
        yield start / SAMPLE_RATE, waiting[:cut]
        waiting, start = waiting[cut:], start + cut
    if len(waiting):
        yield start / SAMPLE_RATE, waiting


def _quietest(samples: np.ndarray, first: int, last: int) -> int:
    """The middle of the stretch of `_PAUSE` samples with the least energy between `first` and `last`."""
    energy = np.cumsum(samples[first:last].astype(np.float64) ** 2)
    return first + int(np.argmin(energy[_PAUSE:] - energy[:-_PAUSE])) + _PAUSE // 2
