"""`python -m folds.train`: train models over folds; each (model, fold, seed) becomes one folder under `--runs`.

The models' own options are options of this command too: `--model lstm --hidden 512`.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import torch

from folds.store.run_folder import RunFolder
from folds.training.command_line import parse
from folds.training.distributed import joined_group
from folds.training.signals import Stopped
from folds.training.train_fold_model import train_fold_model
from folds.training.warm_restart import find_source
from registry import command


def main() -> int:
    """Train the models and folds of the command line, one after the other; the exit status."""
    options, configs = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    folds = options.fold_list()
    if options.restart_from is not None:
        # All sources must exist before the first run begins, which may take hours.
        for name, fold in itertools.product(configs, folds):
            if not RunFolder.of(options.runs, name, fold, options.seed, options.folds).begun:
                find_source(options.restart_from, name, fold, options.seed, options.folds)
    dataset = options.open_dataset()
    try:
        with joined_group(options.device) as group:
            for name, config in configs.items():
                config = dataclasses.replace(config, features=dataset.features, classes=dataset.alphabet.classes)
                for fold in folds:
                    train_fold_model(options, dataset, name, fold, config, group)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the state is saved: continue with the same command and --resume", file=sys.stderr)
        return stopped.status
    return 0


if __name__ == "__main__":
    command(main)
