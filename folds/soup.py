"""`python -m folds.soup RUN`: a fold model, <model>.soup, with the mean of the weights of one run's last checkpoints.

This is a model soup (Wortsman et al. 2022, arXiv 2203.05482) along one training trajectory: a single model, as fast as
any. Its out-of-fold distance shows whether it is better than the run's last weights. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from folds.store.checkpoint import mean_weights
from folds.store.fold_model import new_network, read_fold_model
from folds.store.run_folder import RunFolder
from folds.training.derived_run import DerivedRunOptions, run_at, write_derived_run
from models.weights_file import set_weights
from registry import InputError, command
from registry.bounds import number
from registry.command_line import parse_options


@dataclass(frozen=True)
class SoupOptions(DerivedRunOptions):
    """Average the last checkpoints of one run into a new fold model, <model>.soup."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The folder of one run: runs/<model>/fold<k>."""
    last: int = number(2, at_least=2, at_most=10_000)
    """How many checkpoints to average; a run keeps as many as `folds.train --keep` says."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.run) > 1:
            raise InputError(
                f"{', '.join(map(str, self.run))}: expected one run: weights of separately trained models cannot be "
                "averaged, and across folds no utterance would be out of fold; blend them with python -m ensemble.blend"
            )


def make_soup(options: SoupOptions) -> RunFolder:
    """Write the folder of the soup, and return it."""
    device, run = options.pick_device(), run_at(options.run[0])
    if not run.begun:
        raise InputError(f"{options.run[0]}: not the folder of a run: pass one such as runs/<model>/fold0")
    if not run.finished:
        raise InputError(f"{run.path}: not finished: continue it with folds.train --resume first")
    if run.trained_run != run:
        raise InputError(f"{run.path}: is adapted or delayed: use the run itself, {run.trained_run.path}")
    fold_model = read_fold_model(run)
    if fold_model.config.soup is not None:
        raise InputError(f"{run.path}: is a soup itself, which has no checkpoints: use the run that it was made from")
    checkpoints = run.checkpoints[-options.last :]
    if len(checkpoints) < options.last:
        raise InputError(
            f"{run.path}: {len(checkpoints)} checkpoints, fewer than --last {options.last}: train with "
            f"--keep {options.last}"
        )
    dataset, network = options.open_dataset(), new_network(fold_model)
    set_weights(network, mean_weights(checkpoints), checkpoints[-1])
    folder = run.soup
    changes = {"soup": [path.name for path in checkpoints]}
    write_derived_run(fold_model, dataset, network, folder, changes, device)
    return folder


def main() -> None:
    """Run the command."""
    make_soup(parse_options(SoupOptions, "python -m folds.soup", description=__doc__))


if __name__ == "__main__":
    command(main)
