"""What a competition is: its alphabet, splits, metric and submissions, and the formats its folder may have."""
