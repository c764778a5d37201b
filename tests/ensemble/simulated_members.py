"""Simulated members: true class sequences turned into peaky CTC posteriors with noise, jitter and a stride.

Each token is a spike of one or two frames near its place. At difficult places, some shared by all members and some a
member's own, part of the spike's mass goes to another token or to the blank, so the errors of members correlate, as
those of trained models do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.split_predictions import SplitPredictions
from ensemble.lm.ngram import estimate
from ensemble.members.predictions import Predictions
from ensemble.threads import set_worker_threads
from folds.store.fold_model import FoldModel, read_fold_model
from folds.store.log_probs import LogProbs, write_log_probs
from folds.store.ragged import offsets_of
from folds.store.run_folder import RunFolder
from registry.json_files import write_json

# The machine is shared with whatever else runs; hundreds of short parallel computations would wait for it.
set_worker_threads(1)

CLASSES = 12
FRAMES_PER_TOKEN = 8


def references(utterances: int, length: int = 20, seed: int = 0, classes: int = CLASSES) -> list[list[int]]:
    """Class sequences of a sparse phone bigram, so that a language model can predict them."""
    rng = np.random.default_rng(seed)
    bigram = np.random.default_rng(99).dirichlet(np.full(classes - 1, 0.3), classes)
    sequences = []
    for _ in range(utterances):
        sequence = [0]
        for _ in range(max(1, int(rng.integers(length // 2, length * 3 // 2)))):
            sequence.append(int(rng.choice(classes - 1, p=bigram[sequence[-1]])) + 1)
        sequences.append(sequence[1:])
    return sequences


def log_probs(
    sequences: list[list[int]],
    stride: int = 4,
    error: float = 0.2,
    seed: int = 1,
    classes: int = CLASSES,
    alphabet: str = "simulated",
    ids: Sequence[str] | None = None,
) -> LogProbs:
    """One model's predictions; `error` is the fraction of a difficult token's mass that goes to another class."""
    rng = np.random.default_rng(seed)
    rows_of = []
    for number, sequence in enumerate(sequences):
        shared = np.random.default_rng(10_000 + number)
        hard = shared.random(len(sequence))
        rivals = shared.integers(1, classes, len(sequence))
        per_token = FRAMES_PER_TOKEN // stride
        frames = len(sequence) * per_token + 2
        probs = np.full((frames, classes), 0.002)
        probs[:, 0] = 1.0
        for k, token in enumerate(sequence):
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
        rows_of.append(np.log(probs / probs.sum(axis=1, keepdims=True)))
    ids = ids or [f"{number % 7}-0-{number:04d}" for number in range(len(sequences))]
    values, offsets = np.concatenate(rows_of).astype(np.float16), offsets_of(map(len, rows_of))
    return LogProbs(values, offsets, tuple(ids), alphabet, 0, stride)


def _loaded(log_probs: LogProbs) -> LogProbs:
    return log_probs


def inputs(
    members: dict[str, list[LogProbs]],
    references_of_all: list[list[int]] | None,
    outer_folds: int = 2,
    nbest_size: int = 20,
    pool_size: int = 40,
    **split: Any,
) -> BlendInputs:
    """Blend inputs of members given by name with their predictions: one out of fold, otherwise one per fold model."""
    names = tuple(sorted(members))
    predictions = tuple(
        Predictions(f"{name} fold {fold}", number, functools.partial(_loaded, log_probs))
        for number, name in enumerate(names)
        for fold, log_probs in enumerate(members[name])
    )
    first = members[names[0]][0]
    language_models = [
        estimate(references(200, seed=50 + fold, classes=first.classes), first.classes, 3)
        for fold in range(outer_folds)
    ]
    return BlendInputs(
        SplitPredictions(
            name="oof",
            names=names,
            predictions=predictions,
            ids=first.ids,
            classes=first.classes,
            outer_folds=np.arange(len(first)) % outer_folds,
            language_models=tuple(language_models),
            references=None if references_of_all is None else tuple(references_of_all),
            **split,
        ),
        nbest_size,
        pool_size,
    )


def write_run(runs: Path, name: str, fold: int, splits: dict[str, LogProbs], **config: Any) -> Path:
    """A finished run in the layout of the runs folder; `config` replaces entries of its config.json."""
    content: dict[str, Any] = {"model": name, "fold": fold, "folds": 2, "seed": 0, "parameters": 1000, "tags": []}
    content |= {"stride": 4} | config
    folder = RunFolder.of(runs, name, fold, content["seed"], content["folds"])
    folder.path.mkdir(parents=True)
    folder.config.write_text(json.dumps(content))
    for split, log_probs in splits.items():
        write_log_probs(folder.predictions(split), log_probs)
    return folder.path


def edit_config(fold_model: FoldModel, **entries: Any) -> FoldModel:
    """The fold model, read again with these entries of its config.json replaced."""
    write_json(fold_model.folder.config, fold_model.recorded | entries)
    return read_fold_model(fold_model.folder)
