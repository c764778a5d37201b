"""Transcribe recordings to phonemes with times and confidences, with one trained network or a fitted blend."""
