"""`python -m folds.train`: train models over folds; each (model, fold, seed) becomes one folder under `--runs`.

The models' own options are options of this command too: `--model lstm --hidden 512`.
"""

from __future__ import annotations

import itertools
import os
import sys

# OpenMP's threads spin while they wait, and a step has thousands of waits: next to other busy processes, training with
# two threads fell from 11,000 frames/s or more to 15 to 400. Threads that sleep immediately are slow on an idle machine
# (20,200 frames/s, versus 70,900 for spinning ones; pblstm_small on two cores). Spinning for a thousand iterations
# first gives 62,900 there, and 19,200 next to a busy process. The default number of threads follows load and speed, but
# cannot change within a step. OpenMP reads these variables when PyTorch is imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

from folds.store.remote import check_folder
from folds.training.command_line import parse
from folds.training.distributed import joined_group
from folds.training.loggers.base import logger_names
from folds.training.resumption import FinishedOtherwise, check_folds
from folds.training.signals import Stopped
from folds.training.sources import check_sources
from folds.training.train_fold_model import train_fold_model
from registry import InputError, command

LEAK = "so a speaker can be in several folds: out-of-fold distances may be too low"


def main(arguments: list[str] | None = None) -> int:
    """Train the models and folds of the command line, one after the other; return the exit status."""
    models = parse(sys.argv[1:] if arguments is None else arguments)
    options = models[0].options  # they differ only in the recipe
    folds = options.fold_list()
    check_folder(options.runs)
    for model, fold in itertools.product(models, folds):
        check_sources(options, model.name, fold)
    logger_names(options.log)  # fail before the data are read if one is not installed
    for model, fold in itertools.product(models, folds):
        check_folds(options.run_folder(model.name, fold), options.folds, options.fold_by)
    dataset = options.open_dataset()
    if options.with_dev and dataset.dev.tokens is None:
        raise InputError(f"--with-dev: the dev split of {dataset.root} has no transcripts to train on")
    try:
        with joined_group(options.device) as group:
            if group.first and options.folds > 1 and not dataset.train.names_groups:
                print(f"warning: {dataset.format} data name no speakers, {LEAK}", file=sys.stderr)
            refused: list[FinishedOtherwise] = []
            for model, fold in itertools.product(models, folds):
                try:
                    train_fold_model(model.options, dataset, model.name, fold, model.config_for(dataset), group)
                except FinishedOtherwise as error:
                    refused.append(error)  # still train the others
            if refused:
                raise InputError("; ".join(map(str, refused)))
    except Stopped as stopped:
        print(f"stopped by {stopped}; the state is saved: continue with the same command and --resume", file=sys.stderr)
        return stopped.status
    return 0


if __name__ == "__main__":
    command(main)
