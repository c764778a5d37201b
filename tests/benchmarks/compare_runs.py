"""What a change of the recipe is worth: runs of stores against those of a first one, over the same utterances.

`python tests/benchmarks/compare_runs.py BASE OTHER… [--data DIR]` prints a row a store and member: the greedy
out-of-fold and dev distance of each of its seeds, mean CPU-minutes, and the difference to the first row's, a paired
95 % bootstrap over utterances of the mean over the seeds both have. Another seed is a source of doubt of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ensemble.statistics.bootstrap import paired_bootstrap
from folds.competition.detect import data_root
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from folds.store.fold_model import FoldModel, find_fold_models
from folds.store.json_files import read_json
from folds.training.predict import greedy_distances


def distances(member: FoldModel, split: str, dataset: Dataset) -> np.ndarray:
    """Greedy edit distances `(N,)` of a fold model, in the order of its utterances."""
    source = dataset.train if split == "oof" else dataset.dev
    found = member.load(split)
    row_of = {name: row for row, name in enumerate(source.ids)}
    return greedy_distances(found, source, [row_of[name] for name in found.ids])


def runs_of(store: Path) -> dict[str, dict[tuple[int, int], FoldModel]]:
    """The store's runs by what they are of, `model` or `model.soup`, then by (fold, seed)."""
    runs: dict[str, dict[tuple[int, int], FoldModel]] = {}
    for member in find_fold_models(store):
        kind = member.name.replace(f".seed{member.seed}", "")
        runs.setdefault(kind, {})[member.fold, member.seed] = member
    return runs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(data_root(options.data))
    rows = [(store.name, *each) for store in options.stores for each in runs_of(store).items()]
    base = rows[0][2]
    print("| runs | seeds | CPU-minutes | OOF | dev | OOF against the first | dev against the first |")
    print("|" + "---|" * 7)
    for store, kind, runs in rows:
        cells, both = [], sorted(base.keys() & runs.keys())
        for split in ("oof", "dev"):
            ours = {key: distances(member, split, dataset) for key, member in runs.items()}
            theirs = {key: distances(base[key], split, dataset) for key in both}
            level = " · ".join(f"{ours[key].mean():.3f}" for key in sorted(ours))
            mean = [np.mean([each[key] for key in both], axis=0) for each in (ours, theirs)]
            cells.append((level, str(paired_bootstrap(*mean)) if both and runs is not base else "–"))
        minutes = np.mean([read_json(member.path / "summary.json")["cpu_minutes"] for member in runs.values()])
        seeds = ", ".join(str(seed) for _, seed in sorted(runs))
        (oof, against_oof), (dev, against_dev) = cells
        name = f"{store}{' soup' if kind.endswith('.soup') else ''}"
        print(f"| {name} | {seeds} | {minutes:.1f} | {oof} | {dev} | {against_oof} | {against_dev} |")


if __name__ == "__main__":
    main()
