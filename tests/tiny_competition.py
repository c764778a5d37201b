"""A competition that a model learns in seconds, for tests of every package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PHONEMES = ("AE", "K", "T", "S", "IY", "N")


def tiny_competition(root: Path, speakers: int, each: int, others: int) -> Path:
    """Write it in the layout of F22 to S26: each phoneme is a pattern of 5 features, held for 8 frames; `root`.

    Each of `speakers` has `each` utterances to train on; dev and test have one speaker with `others` utterances each.
    """
    random = np.random.default_rng(0)
    patterns = random.normal(size=(len(PHONEMES), 5))

    def utterance(folder: Path, name: str, transcript: bool) -> None:
        phonemes = random.integers(len(PHONEMES), size=random.integers(4, 9))
        frames = np.repeat(patterns[phonemes], 8, axis=0) + 0.3 * random.normal(size=(8 * len(phonemes), 5))
        (folder / "mfcc").mkdir(parents=True, exist_ok=True)
        np.save(folder / "mfcc" / f"{name}.npy", frames.astype(np.float32))
        if transcript:
            (folder / "transcript").mkdir(exist_ok=True)
            labels = ["[SOS]", *(PHONEMES[i] for i in phonemes), "[EOS]"]
            np.save(folder / "transcript" / f"{name}.npy", np.array(labels))

    for speaker in range(speakers):
        for number in range(each):
            utterance(root / "train-clean-100", f"{speaker}-1-{number:04d}", True)
    for number in range(others):
        utterance(root / "dev-clean", f"90-1-{number:04d}", True)
        utterance(root / "test-clean", f"91-1-{number:04d}", False)
    rows = "".join(f"{number},-\n" for number in range(others))
    (root / "test-clean" / "random_submission.csv").write_text("index,label\n" + rows)
    return root
