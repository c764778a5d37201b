"""A competition's data as training needs it: checked, packed, split into folds, batched and augmented."""
