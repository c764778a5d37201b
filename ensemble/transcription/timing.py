"""When each phoneme of a transcript was spoken, and how confident the networks are of it.

Each network aligns the decoded phonemes with its own log-probabilities (`models.ctc_alignment`) at its own frame rate,
because networks do not emit a phoneme in the same frames. A phoneme's time is the weighted mean of the times at which
the networks emit it; its confidence is the weighted mean of the highest posterior that each network gives it in the
frames aligned with it. A network that prefers another phoneme there gives it a low posterior, so confidences are lower
where networks disagree.

CTC emits a phoneme in a frame or two, not for its whole duration. Its interval therefore reaches half way to its
neighbours, but at most `REACH` seconds to either side; beyond that there is silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.members.frame_mean import FrameRate, resampled_rows
from folds.competition.alphabets import SILENCES
from folds.frontends.base import FRAME_SHIFT, WINDOW
from models.ctc_alignment import align

REACH = 0.15
"""Maximum reach of a phoneme before and after its centre, in seconds; long vowels last about twice this."""


@dataclass(frozen=True)
class FrameTimes:
    """The timing of feature frames, in seconds; by default that of the audio front ends."""

    shift: float = FRAME_SHIFT
    """Seconds from one frame to the next."""
    length: float = WINDOW
    """Duration of the signal behind a frame."""

    def middle(self, frame: float) -> float:
        """The time of the middle of a frame; `frame` may lie between two."""
        return self.length / 2 + self.shift * frame

    def duration(self, count: int) -> float:
        """The duration of the signal behind `count` frames."""
        return self.shift * (count - 1) + self.length


@dataclass(frozen=True)
class TimedPhoneme:
    """A phoneme of a transcript."""

    phoneme: str
    start: float
    """Seconds from the start of the recording."""
    end: float
    confidence: float
    """From 0 to 1; see the module docstring."""


@dataclass(frozen=True, eq=False)
class NetworkFrames:
    """One network's log-probabilities for an utterance, and how its frames map to those of the features."""

    log_probs: np.ndarray
    """`(T', C)`."""
    stride: int
    weight: float
    """The network's weight in times and confidences."""
    delay: int = 0
    """Number of frames by which the network's features are delayed."""


def time_phonemes(
    tokens: Sequence[int],
    networks: Sequence[NetworkFrames],
    phonemes: Sequence[str],
    seconds: float,
    frames: FrameTimes | None = None,
) -> list[TimedPhoneme]:
    """Times and confidences of L tokens in an utterance of `seconds`, in order and without overlap.

    `phonemes` are the names of the classes, and `frames` is the timing of the features. If no network has an alignment,
    the phonemes are spread evenly and their confidence is 0.
    """
    if not len(tokens):
        return []
    centres, confidences = _centres(tokens, networks, seconds, frames or FrameTimes())
    names = [phonemes[token] for token in tokens]
    reach = np.array([np.inf if name in SILENCES else REACH for name in names])
    starts, ends = _intervals(centres, reach, seconds)
    values = zip(names, starts.tolist(), ends.tolist(), confidences.tolist(), strict=True)
    return [TimedPhoneme(*value) for value in values]


def mean_posteriors(networks: Sequence[NetworkFrames]) -> np.ndarray:
    """The networks' weighted mean posteriors `(T', C)`, at the highest frame rate among them.

    For each output frame, a network contributes its frame that covers the middle of that frame.
    """
    finest = min(network.stride for network in networks)
    count = min(len(network.log_probs) for network in networks if network.stride == finest)
    frames = FrameRate(np.array([0, count]), finest)
    mean = np.zeros((count, networks[0].log_probs.shape[1]))
    for network in networks:
        rate = FrameRate(np.array([0, len(network.log_probs)]), network.stride, network.delay)
        mean += network.weight * np.exp(network.log_probs[resampled_rows(rate, frames)])
    return mean


def _centres(
    tokens: Sequence[int], networks: Sequence[NetworkFrames], seconds: float, frames: FrameTimes
) -> tuple[np.ndarray, np.ndarray]:
    """The time of each token, in seconds and increasing, and its confidence, both (L,)."""
    labels = np.asarray(tokens)
    centres, confidences, total = np.zeros(len(labels)), np.zeros(len(labels)), 0.0
    for network in networks:
        spans, score = align(network.log_probs, tokens)
        if not np.isfinite(score):
            continue  # the network has too few frames for these phonemes
        total += network.weight
        for k, (start, end) in enumerate(spans):
            posteriors = np.exp(network.log_probs[start:end, labels[k]].astype(np.float64))
            frame = np.average(np.arange(start, end), weights=np.maximum(posteriors, 1e-30))
            middle = max(network.stride * frame + (network.stride - 1) / 2 - network.delay, 0.0)
            centres[k] += network.weight * frames.middle(middle)
            confidences[k] += network.weight * posteriors.max()
    if total == 0:
        return seconds * (np.arange(len(labels)) + 0.5) / len(labels), confidences
    weight_of_all = sum(network.weight for network in networks)
    return np.minimum(centres / total, seconds), np.minimum(confidences / weight_of_all, 1.0)


def _intervals(centres: np.ndarray, reach: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (L,): half way to each neighbour, or farther, up to where it begins, but within `reach`."""
    gaps = np.diff(centres)
    ends = centres[:-1] + np.minimum(reach[:-1], np.maximum(gaps / 2, gaps - reach[1:]))
    starts = centres[1:] - np.minimum(reach[1:], np.maximum(gaps / 2, gaps - reach[:-1]))
    first, last = max(centres[0] - reach[0], 0.0), min(centres[-1] + reach[-1], seconds)
    return np.concatenate([[first], starts]), np.concatenate([ends, [last]])
