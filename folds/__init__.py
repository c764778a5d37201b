"""From a competition's files to out-of-fold, dev and test log-probabilities.

`competition/` describes the data; `data/` packs it, splits it into folds and makes batches; `training/` trains;
`store/` keeps runs and their predictions. Commands: `folds.demo` makes a demo competition, `folds.train` trains
models over folds, `folds.launch` trains many runs at once, `folds.tune` searches for a better recipe, `folds.soup`
averages the weights of one run, `folds.delay` predicts again with delayed features, `folds.adapt` adapts networks to
speakers, and `folds.competitions` lists the known competitions.

>>> import folds
>>> dataset = folds.load_dataset(folds.data_root())                         # doctest: +SKIP
>>> fold_of = folds.speaker_folds(dataset.train, folds=5)                   # doctest: +SKIP
>>> log_probs = folds.find_fold_models(Path("runs"))[0].load("oof")         # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING

import registry  # noqa: F401 - before all else: see registry.startup

if TYPE_CHECKING:
    from folds.competition.detect import data_root, open_competition
    from folds.competition.metric import edit_distances, mean_distance
    from folds.data.cache import load_dataset
    from folds.data.data_options import DataOptions, StoreOptions
    from folds.data.dataset import Dataset, Split
    from folds.data.speaker_folds import speaker_folds
    from folds.store.fold_model import FoldModel, find_fold_models, unfinished_runs
    from folds.store.log_probs import LogProbs
    from folds.store.run_folder import RunFolder

__all__ = [
    "DataOptions",
    "Dataset",
    "FoldModel",
    "LogProbs",
    "RunFolder",
    "Split",
    "StoreOptions",
    "data_root",
    "edit_distances",
    "find_fold_models",
    "load_dataset",
    "mean_distance",
    "open_competition",
    "speaker_folds",
    "unfinished_runs",
]

# Public names are imported lazily (PEP 562). Some need PyTorch, which takes seconds to import; `python -m submit` and
# `python -m folds.demo` need none of those, and start at once.
_MODULES = {
    "folds.competition.detect": ("data_root", "open_competition"),
    "folds.competition.metric": ("edit_distances", "mean_distance"),
    "folds.data.cache": ("load_dataset",),
    "folds.data.data_options": ("DataOptions", "StoreOptions"),
    "folds.data.dataset": ("Dataset", "Split"),
    "folds.data.speaker_folds": ("speaker_folds",),
    "folds.store.fold_model": ("FoldModel", "find_fold_models", "unfinished_runs"),
    "folds.store.log_probs": ("LogProbs",),
    "folds.store.run_folder": ("RunFolder",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
