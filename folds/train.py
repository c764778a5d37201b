"""`python -m folds.train`: train models over folds; each (model, fold, seed) becomes one folder in the store.

The model's own options are options of this command too: `--model lstm --hidden 512`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

import torch
import tyro

from registry import MODELS, command, model_config

from .cache import load_dataset
from .competition import data_root
from .interrupt import Stopped
from .options import TrainOptions
from .parallel import joined_group
from .run import train_member


def parse(arguments: list[str]) -> tuple[TrainOptions, dict[str, Any]]:
    """The options, and what was given of the model's own options.

    Those are offered when all models named share one config dataclass; their defaults are the first model's.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", default=TrainOptions.model)
    names = first.parse_known_args(arguments)[0].model.split(",")
    defaults = model_config(names[0], features=1, classes=2)
    for name in names[1:]:
        if MODELS.entry(name).info.get("config") is not type(defaults):
            return tyro.cli(TrainOptions, args=arguments, prog="python -m folds.train"), {}
    schema = dataclasses.make_dataclass(
        "Train",
        [("options", tyro.conf.OmitArgPrefixes[TrainOptions]), ("config", tyro.conf.OmitArgPrefixes[type(defaults)])],
    )
    schema.__doc__ = TrainOptions.__doc__
    chosen = tyro.cli(schema, args=arguments, default=schema(TrainOptions(), defaults), prog="python -m folds.train")
    fields = [field.name for field in dataclasses.fields(defaults)]
    given = {name: getattr(chosen.config, name) for name in fields}
    return chosen.options, {name: value for name, value in given.items() if value != getattr(defaults, name)}


def main() -> int:
    """Train what the command line asks for, one run after the other; the exit status."""
    options, overrides = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    folds = options.fold_list()
    names = options.model.split(",")
    for name in names:  # an unknown name is told before the first run takes its hours
        model_config(name, features=1, classes=2, **overrides)
    dataset = load_dataset(data_root(options.data), allow_pickle=options.allow_pickle)
    try:
        with joined_group(options.device) as group:
            for name in names:
                for fold in folds:
                    train_member(options, dataset, name, fold, overrides, group)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the state is saved: the same command with --resume goes on", file=sys.stderr)
        return stopped.status
    return 0


if __name__ == "__main__":
    command(main)
