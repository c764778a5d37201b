"""Recordings: reading audio as 16 kHz samples, and splitting it at pauses into utterances."""
