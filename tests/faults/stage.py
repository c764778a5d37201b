"""What the cases damage: a tiny competition, runs, a submission and a ledger, made once and copied for each case."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import numpy as np
from brain_to_text_files import brain_to_text
from faults.fork_server import ForkServer, Invocation
from tiny_competition import tiny_competition

TINY = ["--hidden", "8", "--layers", "1", "--threads", "1", "--batch-frames", "400", "--epochs", "2", "--folds", "2"]
TRAIN = [*TINY, "--model", "lstm_small", "--channels", "8", "8", "--strides", "2", "1"]
LAS = [*TINY, "--bottom", "8", "--channels", "8", "--speller", "8", "--attention", "8", "--model", "las_small"]
SLUG = "hw3p2"


def object_arrays(root: Path) -> None:
    """A competition in the layout of F20 to F21: object arrays, with six, two and two utterances."""
    root.mkdir(parents=True)
    random = np.random.default_rng(1)

    def ragged(items: list[np.ndarray]) -> np.ndarray:
        array = np.empty(len(items), object)
        array[:] = items
        return array

    for split, count in (("train", 6), ("dev", 2), ("test", 2)):
        lengths = random.integers(20, 30, count)
        np.save(root / f"{split}.npy", ragged([random.normal(size=(n, 5)).astype(np.float32) for n in lengths]))
        if split != "test":
            np.save(root / f"{split}_labels.npy", ragged([random.integers(1, 40, n // 8) for n in lengths]))


class Stage:
    """The folder of valid inputs, and the copies that cases get."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def make(folder: Path, server: ForkServer) -> Stage:
        """Make all valid inputs with the commands themselves."""
        stage = Stage(folder)
        tiny_competition(folder / "data", speakers=4, each=3, others=3)
        object_arrays(folder / "old")
        brain_to_text(folder / "brain")
        with wave.open(str(folder / "recording.wav"), "wb") as recording:
            recording.setparams((1, 2, 16_000, 0, "NONE", ""))
            recording.writeframes(np.random.default_rng(2).integers(-999, 999, 16_000, np.int16).tobytes())
        for name in ("tmp", "home"):
            (folder / name).mkdir()
        data = ["--data", "data"]
        stage.check(server, "folds.train", [*data, *TRAIN, "--fold", "all"])
        stage.check(server, "folds.train", [*data, *LAS, "--fold", "0", "--runs", "las"])
        stage.check(server, "ensemble.blend", [*data, "--method", "mbr", "--nbest-out", "nbest.safetensors"])
        stage.check(server, "ensemble.decode", [*data, "--lm", "train", "--lm-order", "2", "--arpa", "lm.arpa"])
        stage.check(server, "folds.demo", ["--out", "demo", "--speakers", "4", "--utterances", "1"])
        event = {"event": "attempt", "id": "a", "epoch": 1.0, "competition": SLUG, "file": "submission.csv"}
        events = [event | {"sha256": "0"}, {"event": "submitted", "id": "a", "epoch": 2.0, "ref": 5}]
        (folder / "submissions.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        return stage

    def check(self, server: ForkServer, module: str, arguments: list[str]) -> None:
        """Run a command in the stage's own folder; it must succeed."""
        result = server.run(Invocation(module, arguments, self.folder, self.environment(self.folder)))
        if result.status:
            raise RuntimeError(f"{module} {' '.join(arguments)}: exit status {result.status}: {result.err}")

    def copy(self, folder: Path) -> None:
        """Copy the stage for one case; times are kept, so that the copied cache is valid."""
        shutil.copytree(self.folder, folder, symlinks=True)

    @staticmethod
    def environment(folder: Path) -> dict[str, str]:
        """The variables of a case: its own cache, home and temporary folder."""
        own = {"HW3P2_CACHE": "cache", "TMPDIR": "tmp", "HOME": "home", "MPLCONFIGDIR": "home"}
        return {name: f"{folder}/{value}" for name, value in own.items()}
