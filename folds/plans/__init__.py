"""Plans included in the package: members to train, by name (`folds.launch --plan course-20M`)."""
