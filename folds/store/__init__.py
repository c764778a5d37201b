"""The store: run folders, training checkpoints, log-probabilities, and the fold models found among the runs."""
