"""The search for hyperparameters: what is searched, in which stages, the study on disk, its trials and its report."""
