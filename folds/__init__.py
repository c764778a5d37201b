"""From the competition's files to out-of-fold, dev and test log-probabilities: data, folds, training, the store.

What it hands on here needs no PyTorch; `folds.train` is the training command, `folds.demo` makes a competition.
"""

from folds.competition.detect import data_root, open_competition
from folds.competition.metric import edit_distances, mean_distance
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset, Split
from folds.store.fold_model import FoldModel, find_fold_models, unfinished_runs
from folds.store.log_probs import LogProbs

__all__ = [
    "Dataset",
    "LogProbs",
    "FoldModel",
    "Split",
    "data_root",
    "edit_distances",
    "find_fold_models",
    "load_dataset",
    "mean_distance",
    "open_competition",
    "unfinished_runs",
]
