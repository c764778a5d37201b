"""Trained models for notebooks and other people's code."""

from __future__ import annotations

from pathlib import Path

# Where a run keeps the weights that predict, with what `load` needs to know of them in the file's header.
WEIGHTS_FILE = Path("checkpoint/weights.safetensors")
