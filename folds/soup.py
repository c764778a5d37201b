"""`python -m folds.soup RUN`: a fold model with the mean of the weights of one run's last checkpoints.

A model soup (Wortsman et al. 2022, arXiv 2203.05482) along one training trajectory: a single model, as fast as any.
Its out-of-fold distance shows whether it is better than the run's last weights. It trains nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from folds.data.data_options import DataOptions
from folds.data.renormalized import renormalized_dataset
from folds.store.checkpoint import mean_weights
from folds.store.fold_model import AGAIN, new_network, read_fold_model
from folds.store.lease import hold
from folds.store.run_folder import RunFolder
from folds.store.schemas import SummaryFile
from folds.training.metrics_logger import Cost
from folds.training.options import CPU_FRAMES
from folds.training.predict import write_predictions
from folds.training.run_config import weights_description
from models import write_weights
from models.weights_file import set_weights
from registry import InputError, command
from registry.bounds import number
from registry.command_line import parse_options
from registry.json_files import read_json, write_json


@dataclass(frozen=True)
class SoupOptions(DataOptions):
    """Average the last checkpoints of one run into a fold model of its own, <model>.soup."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The folder of one run: runs/<model>/fold<k>."""
    last: int = number(2, at_least=2, at_most=10_000)
    """How many checkpoints to average; a run keeps those of `folds.train --keep`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise InputError("no run is given: pass the folder of one, runs/<model>/fold<k>")
        if len(self.run) > 1:
            raise InputError(
                f"{', '.join(map(str, self.run))}: a soup is of one run: models trained separately compute different "
                "functions with the same weight, so their mean computes neither, and across folds every utterance was "
                "fitted by one of them, so nothing would be out of fold; blend them with python -m ensemble.blend"
            )


def make_soup(options: SoupOptions) -> RunFolder:
    """Write the folder of the soup, and return it."""
    run = RunFolder(Path(os.path.realpath(options.run[0])))
    if not run.begun:
        raise InputError(f"{options.run[0]}: not the folder of a run: pass one such as runs/<model>/fold0")
    fold_model, summary = read_fold_model(run), read_json(run.summary, SummaryFile, AGAIN)
    checkpoints = run.checkpoints[-options.last :]
    if len(checkpoints) < options.last:
        raise InputError(
            f"{run.path}: {len(checkpoints)} checkpoints, fewer than --last {options.last}: train with "
            f"--keep {options.last}"
        )
    dataset = options.open_dataset()
    config, trained = fold_model.config, fold_model.check_trained()
    if dataset.hash != trained.data.hash:
        raise InputError(f"{run.path}: was trained on other data than {dataset.root}: pass its data with --data")
    # The utterances the run itself held out, whichever version assigned the folds.
    row_of = {utterance: row for row, utterance in enumerate(dataset.train.ids)}
    held_out = np.array([row_of[utterance] for utterance in fold_model.load("oof").ids], np.int64)
    dataset = renormalized_dataset(dataset, fold_model.transform.normalization)
    network = new_network(fold_model)
    set_weights(network, mean_weights(checkpoints), checkpoints[-1])
    folder = run.soup
    with hold(folder.path, folder.title):
        write_json(folder.config, config | {"soup": [path.name for path in checkpoints]})
        write_weights(folder.weights, network, weights_description(config, dataset.alphabet))
        write_predictions(
            network,
            dataset,
            held_out,
            folder,
            frames=trained.options.recipe.batch_frames or CPU_FRAMES,
            device=torch.device("cpu"),
            cost=Cost.from_summary(summary),
            with_dev=fold_model.with_dev,
        )
    return folder


def main() -> None:
    """The command."""
    make_soup(parse_options(SoupOptions, "python -m folds.soup", description=__doc__))


if __name__ == "__main__":
    command(main)
