"""Phoneme error rate of `ensemble.transcribe` on recordings, beside that of the same speakers in the data's dev set.

`python tests/benchmarks/transcription_errors.py --audio DIR --labels phonemes.csv [--runs runs] [--member NAME |
--submission submission.csv] [--data DIR]` transcribes every recording in DIR that the labels (columns `id` and `label`,
the latter as in a submission) name, and the dev utterances of the same speakers, whose features the data have, by the
same network or blend. Error rates are edits per label; intervals are 95 % bootstraps over speakers.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.transcribe import TranscribeOptions, open_recognizer
from ensemble.transcription.recognizer import Recognizer
from ensemble.transcription.sources import Source, find_sources
from ensemble.transcription.transcripts import transcribe
from folds.competition.metric import edit_distances
from folds.data.dataset import Dataset
from registry import InputError, command
from registry.command_line import parse_options

SAMPLES = 2000


@dataclass(frozen=True)
class BenchmarkOptions(TranscribeOptions):
    """Compare error rates on recordings with those on dev."""

    audio: Path = Path("dev")
    """Folder of the recordings."""
    labels: Path | None = None
    """CSV with the columns id and label; by default phonemes.csv in --audio."""
    files: tuple[str, ...] = ("-",)


@dataclass(frozen=True)
class Errors:
    """Edits and labels of each utterance, (N,), and its speaker."""

    edits: np.ndarray
    labels: np.ndarray
    speakers: list[str]

    @staticmethod
    def of(hypotheses: Sequence[str], references: Sequence[str], speakers: Sequence[str]) -> Errors:
        lengths = np.array([len(reference) for reference in references])
        return Errors(edit_distances(hypotheses, references), lengths, list(speakers))

    def rates(self, names: Sequence[str], draws: np.ndarray) -> np.ndarray:
        """The error rate of each draw of speakers, (draws,); `draws` (draws, S) are indices into `names`."""
        speakers = np.array(self.speakers)
        edits, labels = (
            np.array([values[speakers == name].sum() for name in names]) for values in (self.edits, self.labels)
        )
        return edits[draws].sum(axis=1) / labels[draws].sum(axis=1)


def on_recordings(options: BenchmarkOptions, recognizer: Recognizer) -> Errors:
    """The errors on the labelled recordings."""
    path = options.labels or options.audio / "phonemes.csv"
    labels = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("id")["label"]
    with tempfile.TemporaryDirectory() as scratch:
        sources = [source for source in find_sources([str(options.audio)], Path(scratch)) if source.name in labels]
    if len(sources) < len(labels):
        raise InputError(f"{path}: labels {len(labels)} recordings, of which {len(sources)} are in {options.audio}")
    front_end = recognizer.front_end(options.frontend)
    hypotheses = [it.characters for it in transcribe(sources, recognizer, front_end, options.max_seconds)]
    names = [source.name for source in sources]
    return Errors.of(hypotheses, [labels[name] for name in names], [name.split("-")[0] for name in names])


def on_dev(dataset: Dataset, recognizer: Recognizer, speakers: set[str]) -> Errors:
    """The errors on the dev utterances of these speakers, from the features in the data."""
    split = dataset.dev
    rows = [row for row, speaker in enumerate(split.groups) if speaker in speakers]
    references = ["".join(recognizer.characters[token] for token in split.labels(row)) for row in rows]
    with tempfile.TemporaryDirectory() as scratch:
        sources = []
        for row in rows:
            path = Path(scratch) / f"{split.ids[row]}.npy"
            np.save(path, split.features(row))
            sources.append(Source(path.stem, path, str(path), is_features=True))
        hypotheses = [it.characters for it in transcribe(sources, recognizer, None, 20.0)]
    return Errors.of(hypotheses, references, [split.groups[row] for row in rows])


def main() -> None:
    """Run the benchmark."""
    options = parse_options(BenchmarkOptions, "transcription_errors.py", description=__doc__)
    options.use_threads()
    recognizer = open_recognizer(options)
    print(f"recognizer: {recognizer.name}, {len(recognizer.networks)} networks", file=sys.stderr)
    recorded = on_recordings(options, recognizer)
    speakers = sorted(set(recorded.speakers))
    dev = on_dev(options.open_dataset(), recognizer, set(speakers))
    draws = np.random.default_rng(0).integers(len(speakers), size=(SAMPLES, len(speakers)))
    rates = {}
    for name, errors in (("recordings", recorded), ("dev, same speakers", dev)):
        rate = errors.edits.sum() / errors.labels.sum()
        rates[name] = errors.rates(speakers, draws)
        low, high = np.quantile(rates[name], [0.025, 0.975])
        print(
            f"{name}: {len(errors.edits)} utterances of {len(set(errors.speakers))} speakers, mean length "
            f"{errors.labels.mean():.1f}, mean distance {errors.edits.mean():.3f}, error rate {100 * rate:.2f} % "
            f"[{100 * low:.2f}, {100 * high:.2f}]"
        )
    low, high = np.quantile(rates["recordings"] - rates["dev, same speakers"], [0.025, 0.975])
    print(f"difference: [{100 * low:+.2f}, {100 * high:+.2f}] points")


if __name__ == "__main__":
    command(main)
