"""Runs of the training command on a tiny competition, for the tests of training."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from folds import train
from folds.training import loop
from folds.training.step import train_step

MODEL = ["--model", "lstm_small", "--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]
QUICK = [*MODEL, "--folds", "2", "--threads", "1", "--batch-frames", "400", "--lr", "0.01", "--time-mask", "4"]
QUICK += ["--feature-mask", "1"]


def run(monkeypatch: pytest.MonkeyPatch, data: Path, runs: Path, *options: str) -> int:
    """Train a small model on fold 0 with these options; the exit status."""
    monkeypatch.setattr(sys, "argv", ["train", "--data", str(data), "--runs", str(runs), *QUICK, *options])
    return train.main()


def run_folder(runs: Path) -> Path:
    """The folder of that run."""
    return runs / "lstm_small" / "fold0"


def metrics(folder: Path) -> str:
    """The text of metrics.jsonl."""
    return (folder / "metrics.jsonl").read_text()


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in metrics(folder).splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    """summary.json."""
    return json.loads((folder / "summary.json").read_text())


def signal_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> list[int]:
    """Send this process a signal as the given step of training begins, counted from 1; the list grows by each step."""
    steps: list[int] = []

    def counted(*arguments: Any) -> Any:
        steps.append(len(steps) + 1)
        if len(steps) == step:
            os.kill(os.getpid(), number)
        return train_step(*arguments)

    monkeypatch.setattr(loop, "train_step", counted)
    return steps
