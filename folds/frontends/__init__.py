"""Front ends: from audio samples to the features of a competition's data."""
