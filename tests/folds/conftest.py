"""Competitions in the layouts with one file per utterance, and what several tests of training and tuning need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from folds.tuning.study import StudyPaths

Utterance = tuple[np.ndarray, "list[str] | None"]


def _write(folder: Path, utterances: Mapping[str, Utterance], transcripts: str = "transcript") -> None:
    for name, (features, phonemes) in utterances.items():
        (folder / "mfcc").mkdir(parents=True, exist_ok=True)
        np.save(folder / "mfcc" / f"{name}.npy", features)
        if phonemes is not None:
            (folder / transcripts).mkdir(parents=True, exist_ok=True)
            np.save(folder / transcripts / f"{name}.npy", np.array(["[SOS]", *phonemes, "[EOS]"]))


@pytest.fixture(scope="session")
def write_split() -> Callable[..., None]:
    """`write_split(folder, {id: (features (T, F), phonemes or None)}, transcripts="transcript")`."""
    return _write


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A competition in the S24 layout: three training utterances of 2 speakers, one of dev, two of test; F = 3."""
    root = tmp_path / "competition"
    random = np.random.default_rng(1)

    def features(frames: int) -> np.ndarray:
        return random.normal(size=(frames, 3)).astype(np.float32)

    _write(
        root / "train-clean-100",
        {
            "10-1-0001": (features(6), ["[SIL]", "AE", "[SIL]"]),
            "10-1-0000": (features(9), ["K", "K"]),
            "9-1-0000": (features(4), ["T"]),
        },
    )
    _write(root / "dev-clean", {"20-1-0000": (features(5), ["S", "IY"])})
    _write(root / "test-clean", {"30-1-0001": (features(7), None), "30-1-0000": (features(8), None)})
    (root / "test-clean" / "random_submission.csv").write_text("index,label\n0,-a\n1,-b\n")
    return root


@pytest.fixture(scope="session")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training run of six epochs that was never stopped."""
    from training_runs import run, run_folder  # slow to import, and only tests of training need it

    runs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, tiny, runs, "--epochs", "6")
    return run_folder(runs)


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at tasks are processes that need not import PyTorch first."""
    from preloaded_training import PreloadedProcess

    monkeypatch.setattr("folds.launching.attempt.subprocess.Popen", PreloadedProcess)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    """The files of a study of `folds.tune`."""
    return StudyPaths(tmp_path / "a.journal")
