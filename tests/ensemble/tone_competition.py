"""A competition whose phonemes are pairs of tones, with its audio: what a small network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from folds.competition.alphabets import F22
from folds.frontends.base import SAMPLE_RATE, compute_features

FRONT_END = "kaldi-mfcc-13"
TONES = {
    "AE": (300, 900), "K": (450, 1400), "T": (700, 2100), "S": (1000, 3000), "IY": (1500, 4200), "N": (2200, 5500),
}  # fmt: skip
SECONDS, PAUSE = 0.12, 0.3
"""Duration of a phoneme, and of the silence at both ends of an utterance."""


def draw(rng: np.random.Generator, count: int | None = None) -> list[str]:
    """Random phonemes, no two neighbours equal."""
    phonemes = [str(rng.choice(list(TONES)))]
    for _ in range((count or int(rng.integers(4, 9))) - 1):
        phonemes.append(str(rng.choice([phoneme for phoneme in TONES if phoneme != phonemes[-1]])))
    return phonemes


def sound(phonemes: list[str], rng: np.random.Generator) -> np.ndarray:
    """Samples `(S,)` at 16 kHz: silence, the phonemes, silence."""
    time = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    silence = np.zeros(round(PAUSE * SAMPLE_RATE))
    tones = [0.1 * sum(np.sin(2 * np.pi * frequency * time) for frequency in TONES[phoneme]) for phoneme in phonemes]
    samples = np.concatenate([silence, *tones, silence])
    return (samples + rng.normal(0, 0.003, len(samples))).astype(np.float32)


def make(root: Path) -> Path:
    """A competition in the S24 layout: 6 speakers of 8 utterances, and 6 utterances each in dev and test."""
    rng = np.random.default_rng(0)
    names = [f"{speaker}-1-{number:04d}" for speaker in range(6) for number in range(8)]
    splits = {"train-clean-100": names}
    splits |= {"dev-clean": [f"90-1-{n:04d}" for n in range(6)], "test-clean": [f"91-1-{n:04d}" for n in range(6)]}
    for split, utterances in splits.items():
        (root / split / "mfcc").mkdir(parents=True)
        (root / split / "transcript").mkdir()
        for name in utterances:
            phonemes = draw(rng)
            features = compute_features(FRONT_END, sound(phonemes, rng))
            np.save(root / split / "mfcc" / f"{name}.npy", features)
            labels = np.array(["[SOS]", *phonemes, "[EOS]"])
            np.save(root / split / "transcript" / f"{name}.npy", labels)
    for path in (root / "test-clean" / "transcript").iterdir():
        path.unlink()
    (root / "test-clean" / "transcript").rmdir()
    rows = "".join(f"{number},-\n" for number in range(6))
    (root / "test-clean" / "random_submission.csv").write_text("index,label\n" + rows)
    return root


def submission_string(phonemes: list[str]) -> str:
    """The submission's characters of these phonemes."""
    return F22.to_string(F22.encode(phonemes))
