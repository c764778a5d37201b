"""Members that never were trained: true strings turned into peaky CTC posteriors with noise, jitter and a stride.

Each token is a spike of one or two frames near its place; at hard places (the same for all members) and at a member's
own unlucky ones the spike's mass leaks to another token or to the blank, so members err partly alike, as real ones do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs, SplitPredictions
from ensemble.lm.ngram import estimate
from ensemble.members.predictions import Predictions
from folds.store.log_probs import LogProbs, write_log_probs
from folds.store.run_folder import RunFolder

# A parallel kernel waits for its slowest thread; on a busy machine hundreds of short ones would wait for minutes.
numba.set_num_threads(1)

CLASSES = 12
FRAMES_PER_TOKEN = 8


def references(utterances: int, length: int = 20, seed: int = 0, classes: int = CLASSES) -> list[list[int]]:
    """Strings of a sparse phone bigram, so that a language model has something to know."""
    rng = np.random.default_rng(seed)
    bigram = np.random.default_rng(99).dirichlet(np.full(classes - 1, 0.3), classes)
    out = []
    for _ in range(utterances):
        string = [0]
        for _ in range(max(1, int(rng.integers(length // 2, length * 3 // 2)))):
            string.append(int(rng.choice(classes - 1, p=bigram[string[-1]])) + 1)
        out.append(string[1:])
    return out


def log_probs(
    strings: list[list[int]],
    stride: int = 4,
    error: float = 0.2,
    seed: int = 1,
    classes: int = CLASSES,
    alphabet: str = "simulated",
    ids: Sequence[str] | None = None,
) -> LogProbs:
    """One model's posteriors: `error` is the share of a hard token's mass that goes astray."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, string in enumerate(strings):
        shared = np.random.default_rng(10_000 + number)
        hard = shared.random(len(string))
        rivals = shared.integers(1, classes, len(string))
        per_token = FRAMES_PER_TOKEN // stride
        frames = len(string) * per_token + 2
        probs = np.full((frames, classes), 0.002)
        probs[:, 0] = 1.0
        for k, token in enumerate(string):
            at = 1 + k * per_token + int(rng.integers(0, per_token))
            leak = min(0.98, error * (2.0 * hard[k] ** 2 + rng.exponential(0.6)))
            lost = rng.random() < 0.25
            row = np.full(classes, 0.002)
            row[token] += 1 - leak
            row[0 if lost else rivals[k] if rng.random() < 0.5 else rng.integers(1, classes)] += leak
            row[0] += 0.1
            probs[at] = row
        noise = np.exp(rng.normal(0, 0.3, probs.shape))
        probs = probs * noise
        parts.append(np.log(probs / probs.sum(axis=1, keepdims=True)))
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
    ids = ids or [f"{number % 7}-0-{number:04d}" for number in range(len(strings))]
    return LogProbs(np.concatenate(parts).astype(np.float16), offsets, tuple(ids), alphabet, 0, stride)


def inputs(
    members: dict[str, list[LogProbs]],
    strings: list[list[int]] | None,
    parts: int = 2,
    depth: int = 20,
    size: int = 40,
    **split,
) -> BlendInputs:
    """Evidence of members given by name as their streams (one each out of fold, one a fold model otherwise)."""
    names = tuple(sorted(members))
    predictions = tuple(
        Predictions(f"{name} fold {fold}", number, lambda found=found: found)
        for number, name in enumerate(names)
        for fold, found in enumerate(members[name])
    )
    first = members[names[0]][0]
    number_of = np.arange(len(first)) % parts
    classes = first.classes
    languages = [estimate(references(200, seed=50 + part, classes=classes), classes, 3) for part in range(parts)]
    told = None if strings is None else tuple(strings)
    seen = SplitPredictions("oof", names, predictions, first.ids, classes, number_of, tuple(languages), told, **split)
    return BlendInputs(seen, depth, size)


def write_run(runs: Path, name: str, fold: int, splits: dict[str, LogProbs], **config) -> Path:
    """A finished run in the store's layout; `config` overrides what its config.json says."""
    told = {"model": name, "fold": fold, "folds": 2, "seed": 0, "parameters": 1000, "tags": [], "stride": 4} | config
    path = RunFolder.of(runs, name, fold, told["seed"], told["folds"]).path
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(told))
    for split, found in splits.items():
        write_log_probs(path / f"{split}.safetensors", found)
    return path
