"""The files under `--runs`: run folders, checkpoints, log-probabilities, and the fold models found there."""
