"""`python -m folds.soup RUN`: one more member, with the mean of the weights of one run's last checkpoints.

A model soup (Wortsman et al. 2022, arXiv 2203.05482) of one trajectory: one model for the competition's rules, as fast
as any. Whether it is better than the run's last weights, its out-of-fold distance tells. It trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from folds.competition.detect import data_root
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.store.checkpoint import files, mean_weights, save_weights
from folds.store.json_files import read_json, write_json
from folds.training.loop import TrainingTask
from folds.training.train_fold_model import write_predictions
from registry import InputError, command, create_model


@dataclass(frozen=True)
class SoupOptions:
    """Average the last checkpoints of one run into a member of its own, <model>.soup."""

    run: tyro.conf.Positional[tuple[Path, ...]]
    """The folder of one run: runs/<model>/fold<k>."""
    data: Path | None = None
    """The competition's folder; else $HW3P2_DATA, else the demo's."""
    last: int = 2
    """How many checkpoints; folds.train --keep tells how many a run keeps."""
    allow_pickle: bool = False
    """Read object arrays of the competition's files."""

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("no run is named: give the folder of one, runs/<model>/fold<k>")
        if len(self.run) > 1:
            told = ", ".join(map(str, self.run))
            raise InputError(
                f"{told}: a soup is of one run: models trained apart compute different things with the same weight, so "
                "their mean computes nothing, and across folds every utterance was fitted by one of them, so nothing "
                "would be out of fold; blend them with python -m ensemble.blend"
            )
        if self.last < 2:
            raise InputError(f"--last {self.last}: expected at least 2")


def make(options: SoupOptions) -> Path:
    """Write the member's folder, and return it."""
    run = options.run[0].resolve()
    config, summary = read_json(run / "config.json"), read_json(run / "summary.json")
    found = files(run / "checkpoint")
    if len(found) < options.last:
        raise InputError(
            f"{run}: {len(found)} checkpoints where --last asks for {options.last}: train with --keep {options.last}"
        )
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    if dataset.hash != config["data"]["hash"]:
        raise InputError(f"{run}: was trained on other data than {dataset.root}: give its --data")
    model = create_model(config["model"], **config["model_config"])
    model.load_state_dict(mean_weights(found[-options.last :]))
    fold_of = speaker_folds(dataset.train, config["folds"])
    task = TrainingTask(
        dataset=dataset,
        fitted=np.flatnonzero(fold_of != config["fold"]),
        held_out=np.flatnonzero(fold_of == config["fold"]),
        seed=config["seed"],
        device=torch.device("cpu"),
        folder=run.parent.with_name(f"{run.parent.name}.soup") / run.name,
        title=f"{run.parent.name}.soup fold {config['fold']}",
    )
    write_json(task.folder / "config.json", config | {"soup": [path.name for path in found[-options.last :]]})
    save_weights(task.checkpoints / "weights.safetensors", model)
    write_predictions(model, task, config["options"]["recipe"]["batch_frames"], summary["cpu_minutes"])
    return task.folder


def main() -> None:
    """The command."""
    make(tyro.cli(SoupOptions, prog="python -m folds.soup", description=__doc__))


if __name__ == "__main__":
    command(main)
