"""TODO"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from folds.store.log_probs import SCHEMA
from registry import atomic_write


def read_attention_scores(path: Path, weights: str) -> dict[str, dict[bytes, float]]:
    """What the speller with these `weights` (a hash) said before: log P(string | utterance) by utterance and string.

    Strings are class numbers as bytes. Nothing, where the file is missing, damaged, or of other weights.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("weights") != weights:
                return {}
            tokens, ids, scores = (file.get_tensor(name) for name in ("tokens", "ids", "scores"))
            ends, counts = file.get_tensor("token_offsets"), file.get_tensor("counts")
    except (SafetensorError, OSError):
        return {}
    flat = tokens.tobytes()
    strings = [flat[start:end] for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    found, at = {}, 0
    for name, count in zip(ids.tobytes().decode().split("\n"), counts.tolist(), strict=True):
        found[name] = dict(zip(strings[at : at + count], scores[at : at + count].tolist(), strict=True))
        at += count
    return found


def write_attention_scores(path: Path, weights: str, found: dict[str, dict[bytes, float]]) -> None:
    """Write what `read_spelled` reads."""
    strings = [string for scores in found.values() for string in scores]
    tensors = {
        "tokens": np.frombuffer(b"".join(strings), np.uint8),
        "token_offsets": np.concatenate([[0], np.cumsum([len(string) for string in strings])]).astype(np.int64),
        "scores": np.array([score for scores in found.values() for score in scores.values()], np.float32),
        "counts": np.array([len(scores) for scores in found.values()], np.int64),
        "ids": np.frombuffer("\n".join(found).encode(), np.uint8),
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata={"schema": SCHEMA, "weights": weights}))
