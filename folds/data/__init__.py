"""A competition's data for training: checked, packed, split into folds, batched and augmented."""
