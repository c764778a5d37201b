"""Plot one utterance: spectrogram (or features), posteriors over time, and the phonemes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.transcription.transcripts import Recognized
from folds.frontends.base import SAMPLE_RATE
from registry.files import atomic_write

_INCHES_PER_SECOND = 2.4
_MAX_INCHES = 200.0
"""Wider figures would have more pixels than matplotlib can draw."""


def plot(recognized: Recognized, phonemes: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG; `phonemes` are the names of the classes.

    Posteriors are shown for the blank and the decoded phonemes, in order of first appearance.
    """
    from matplotlib.figure import Figure  # takes a second to import, and only --plot needs it

    utterance = recognized.utterance
    start, end = utterance.start, utterance.start + utterance.seconds
    width = min(max(8.0, _INCHES_PER_SECOND * utterance.seconds), _MAX_INCHES)
    figure = Figure(figsize=(width, 7.0), layout="constrained")
    signal, posteriors = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.4))
    if utterance.samples is None:
        extent = (start, end, -0.5, utterance.features.shape[1] - 0.5)
        signal.imshow(utterance.features.T, aspect="auto", origin="lower", extent=extent, interpolation="nearest")
        signal.set_ylabel("feature")
    else:
        signal.specgram(utterance.samples, NFFT=400, Fs=SAMPLE_RATE, noverlap=240, xextent=(start, end), scale="dB")
        signal.set_ylabel("frequency (Hz)")
    signal.set_title(title, pad=28)
    for index, timed in enumerate(recognized.phonemes):
        signal.axvline(timed.start, color="white", linewidth=0.6)
        # In two rows, so that short phonemes do not overlap.
        place = ((timed.start + timed.end) / 2, 1.0 + 0.06 * (index % 2))
        signal.annotate(timed.phoneme, place, xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    shown = list(dict.fromkeys(timed.phoneme for timed in recognized.phonemes))
    rows = [0, *(phonemes.index(phoneme) for phoneme in shown)]
    image = posteriors.imshow(
        recognized.posteriors[:, rows].T,
        aspect="auto",
        extent=(start, end, len(rows) - 0.5, -0.5),
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    posteriors.set_yticks(np.arange(len(rows)), ["blank", *shown], fontsize=8)
    posteriors.set_xlabel("time (s)")
    posteriors.set_ylabel("phoneme")
    figure.colorbar(image, ax=posteriors, label="posterior", shrink=0.8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
