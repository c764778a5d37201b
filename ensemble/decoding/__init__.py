"""Decoders by name, ours and third-party ones, and the loop that applies one to many utterances."""
