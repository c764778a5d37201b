"""`python -m folds.train`: train models over folds; each (model, fold, seed) becomes one folder in the store.

The model's own options are options of this command too: `--model lstm --hidden 512`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from typing import Any

import torch
import tyro

from folds.competition.detect import data_root
from folds.data.cache import load_dataset
from folds.store.run_folder import RunFolder
from folds.training.distributed import joined_group
from folds.training.options import TrainOptions
from folds.training.signals import Stopped
from folds.training.train_fold_model import train_fold_model
from folds.training.warm_restart import find_source
from registry import command, model_config


def parse(arguments: list[str]) -> tuple[TrainOptions, dict[str, dict[str, Any]]]:
    """The options, and for each model named its own, which are offered when all share one config dataclass.

    What is not given is each model's default; the help text shows the first model's.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", default=TrainOptions.model)
    names = first.parse_known_args(arguments)[0].model.split(",")
    defaults = {name: model_config(name, features=1, classes=2) for name in names}
    config = type(defaults[names[0]])
    if any(type(each) is not config for each in defaults.values()):
        return tyro.cli(TrainOptions, args=arguments, prog="python -m folds.train"), {name: {} for name in names}
    schema = dataclasses.make_dataclass(
        "Train", [("options", tyro.conf.OmitArgPrefixes[TrainOptions]), ("config", tyro.conf.OmitArgPrefixes[config])]
    )
    schema.__doc__ = TrainOptions.__doc__
    configs = {}
    for name in names:
        default = schema(TrainOptions(), defaults[name])
        chosen = tyro.cli(schema, args=arguments, default=default, prog="python -m folds.train")
        configs[name] = {key: value for key, value in vars(chosen.config).items() if key not in ("features", "classes")}
    return chosen.options, configs


def main() -> int:
    """Train what the command line asks for, one run after the other; the exit status."""
    options, configs = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    folds = options.fold_list()
    if options.restart_from is not None:
        # Before the first is trained: the last must not turn out to have nothing to begin from.
        for name, fold in itertools.product(configs, folds):
            if not RunFolder.of(options.runs, name, fold, options.seed, options.folds).begun:
                find_source(options.restart_from, name, fold, options.seed, options.folds)
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    try:
        with joined_group(options.device) as group:
            for name, config in configs.items():
                for fold in folds:
                    train_fold_model(options, dataset, name, fold, config, group)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the state is saved: the same command with --resume goes on", file=sys.stderr)
        return stopped.status
    return 0


if __name__ == "__main__":
    command(main)
