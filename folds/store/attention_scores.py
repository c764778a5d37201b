"""A cache of attention scores: those of one fold model's attention decoder for hypotheses of one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from folds.store.log_probs import SCHEMA_VERSION
from folds.store.ragged import Ragged, offsets_of
from registry.tensor_files import open_tensors, write_serialized


def read_attention_scores(path: Path, weights: str) -> dict[str, dict[bytes, float]]:
    """Log P(hypothesis | utterance) by utterance id and hypothesis, from the model whose weights have this hash.

    Hypotheses are class numbers as bytes. Empty if the file is missing, damaged, or belongs to other weights.
    """
    try:
        with open_tensors(path, "numpy") as file:
            if (file.metadata() or {}).get("weights") != weights:
                return {}
            tokens = Ragged(file.get_tensor("tokens"), file.get_tensor("token_offsets"))
            ids, scores, counts = (file.get_tensor(name) for name in ("ids", "scores", "counts"))
    except (SafetensorError, OSError):
        return {}
    try:
        return _unpack(tokens, ids, scores, counts)
    except (ValueError, TypeError, IndexError):
        return {}  # the arrays are inconsistent


def _unpack(tokens: Ragged, ids: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> dict[str, dict[bytes, float]]:
    hypotheses = [tokens[row].tobytes() for row in range(len(tokens))]
    offsets = offsets_of(counts).tolist()
    return {
        utterance: dict(zip(hypotheses[start:end], scores[start:end].tolist(), strict=True))
        for utterance, start, end in zip(ids.tobytes().decode().split("\n"), offsets[:-1], offsets[1:], strict=True)
    }


def write_attention_scores(path: Path, weights: str, scores: dict[str, dict[bytes, float]]) -> None:
    """Write the file that `read_attention_scores` reads."""
    hypotheses = [hypothesis for by_hypothesis in scores.values() for hypothesis in by_hypothesis]
    values = [score for by_hypothesis in scores.values() for score in by_hypothesis.values()]
    tensors = {
        "tokens": np.frombuffer(b"".join(hypotheses), np.uint8),
        "token_offsets": offsets_of(len(hypothesis) for hypothesis in hypotheses),
        "scores": np.array(values, np.float32),
        "counts": np.array([len(by_hypothesis) for by_hypothesis in scores.values()], np.int64),
        "ids": np.frombuffer("\n".join(scores).encode(), np.uint8),
    }
    write_serialized(path, to_bytes(tensors, metadata={"schema": SCHEMA_VERSION, "weights": weights}))
