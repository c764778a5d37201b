"""Recordings to phonemes with times and confidences, by one trained network or by a fitted blend."""
