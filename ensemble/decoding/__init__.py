"""Decoders by name, our own and third-party ones, and the loop that applies one to many utterances."""
