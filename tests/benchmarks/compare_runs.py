"""What a change of the recipe is worth: the runs of several stores, or of several names in one, against the first.

`python tests/benchmarks/compare_runs.py BASE [OTHER…] [--data DIR]` prints a Markdown table with one row per store and
member: the greedy out-of-fold and dev distance of each of its runs, ordered by fold and seed, mean CPU-minutes, and the
difference to the first row, averaged over the folds and seeds both have, with a paired 95 % bootstrap interval over
speakers. The interval does not include the variation from seed to seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from folds.competition.bootstrap import paired_bootstrap
from folds.data.data_options import DataOptions
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, find_fold_models
from folds.store.schemas import SummaryFile
from folds.training.predict import greedy_distances
from registry import InputError, command
from registry.command_line import parse_options
from registry.json_files import read_json

Runs = dict[tuple[int, int], FoldModel]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Compare the runs of several stores with the first."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """Runs folders; the first one's first runs are the base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stores:
            raise InputError("pass one or more runs folders")


def distances(fold_model: FoldModel, split: str, dataset: Dataset) -> np.ndarray:
    """Greedy edit distances `(N,)` of a fold model, in the order of its utterances."""
    source = dataset.train if split == "oof" else dataset.dev
    return greedy_distances(fold_model.load(split), source)


def runs_by_model(store: Path) -> dict[str, Runs]:
    """The store's runs by model, `<model>` or `<model>.soup`, then by (fold, seed)."""
    runs: dict[str, Runs] = {}
    for fold_model in find_fold_models(store):
        model = fold_model.name.replace(f".seed{fold_model.seed}", "")
        runs.setdefault(model, {})[fold_model.fold, fold_model.seed] = fold_model
    return runs


def compared(runs: Runs, base: Runs, split: str, dataset: Dataset) -> tuple[str, str]:
    """(the distance of each run, the difference to the runs of `base`) on one split.

    Raises InputError if the runs do not have the same utterances as `base`.
    """
    ours = {key: distances(fold_model, split, dataset) for key, fold_model in runs.items()}
    level = " · ".join(f"{ours[key].mean():.3f}" for key in sorted(ours))
    common = sorted(base.keys() & runs.keys())
    if runs is base or not common:
        return level, "–"
    # Runs that held out the same utterances, seeds of one fold or any runs on dev, are averaged: they are no
    # independent utterances.
    pairs: dict[tuple[str, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for key in common:
        ids = tuple(runs[key].load(split).ids)
        if ids != tuple(base[key].load(split).ids):
            other = base[key].path
            raise InputError(f"{runs[key].path}: {split} does not have the utterances of {other}: train it again")
        pairs.setdefault(ids, []).append((ours[key], distances(base[key], split, dataset)))
    values, base_values = np.concatenate([np.mean(of_runs, axis=0) for of_runs in pairs.values()], axis=1)
    source = dataset.train if split == "oof" else dataset.dev
    speaker_of = dict(zip(source.ids, source.groups, strict=True))
    speakers = [speaker_of[utterance] for ids in pairs for utterance in ids]
    return level, str(paired_bootstrap(values, base_values, speakers))


def main() -> None:
    """Print the table."""
    options = parse_options(Options, "compare_runs.py")
    dataset = options.open_dataset()
    rows = [(store, *item) for store in options.stores for item in runs_by_model(store).items()]
    if not rows:
        raise InputError(f"{', '.join(map(str, options.stores))}: no finished runs: train a model first")
    base = rows[0][2]
    print("| runs | fold/seed | CPU-minutes | OOF | dev | OOF against the first | dev against the first |")
    print("|" + "---|" * 7)
    for store, model, runs in rows:
        oof, oof_difference = compared(runs, base, "oof", dataset)
        dev, dev_difference = compared(runs, base, "dev", dataset)
        summaries = [read_json(fold_model.folder.summary, SummaryFile) for fold_model in runs.values()]
        minutes = np.mean([summary.cpu_minutes for summary in summaries])
        seeds = ", ".join(f"{fold}/{seed}" for fold, seed in sorted(runs))
        name = f"{store.name} {model}"
        print(f"| {name} | {seeds} | {minutes:.1f} | {oof} | {dev} | {oof_difference} | {dev_difference} |")


if __name__ == "__main__":
    command(main)
