"""From the competition's files to out-of-fold, dev and test log-probabilities: data, folds, training, the store.

What it hands on here needs no PyTorch; `folds.train` is the training command, `folds.demo` makes a competition.
"""

from folds.competition.detect import data_root, open_competition
from folds.competition.metric import edit_distances, mean_distance
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset, Split
from folds.store.log_probs import LogProbs
from folds.store.runs import Member, find_members, unfinished

__all__ = [
    "Dataset",
    "LogProbs",
    "Member",
    "Split",
    "data_root",
    "edit_distances",
    "find_members",
    "load_dataset",
    "mean_distance",
    "open_competition",
    "unfinished",
]
