"""Weights & Biases (extra `wandb`). Its own environment variables apply: WANDB_MODE=offline needs no account."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

from folds.store.run_folder import RunFolder
from folds.training.loggers.base import LOGGERS, remembered_id, run_settings


@LOGGERS.register("wandb", needs="wandb")
class WeightsAndBiases:
    """A run of the project WANDB_PROJECT, by default hw3p2; its files are in the run's folder."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hw3p2"),
            name=folder.title,
            group=folder.member,
            id=remembered_id(folder, "wandb", lambda: uuid.uuid4().hex),
            resume="allow",
            dir=folder.path,
            config=run_settings(folder),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One row of metrics."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Upload or write the remaining data."""
        self._run.finish()
