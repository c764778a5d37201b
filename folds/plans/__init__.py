"""Plans that come with the package: members to train, by name (`folds.launch --plan course-20M`)."""
