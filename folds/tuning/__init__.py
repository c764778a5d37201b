"""The search for hyperparameters, `folds.tune`: ranges, stages, trials, the study on disk, and what comes out of it."""
