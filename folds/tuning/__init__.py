"""Hyperparameter search, `folds.tune`: ranges, stages, trials, the study on disk, and its results."""
