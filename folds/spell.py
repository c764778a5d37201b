"""What a member's attention speller says of strings that others proposed: log P(string | utterance).

Such scores are known only when a pool of strings is, so they are made when a blend asks, with the member's weights,
and kept in the store beside its log-probabilities: the next blend asks only for what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from models import CTCNetwork
from registry import create_model

from .cache import Split
from .checkpoint import load_weights
from .store import Member, read_spelled, write_spelled


def model_of(member: Member) -> CTCNetwork:
    """The model that made the member's predictions, on the CPU, ready to predict."""
    model = create_model(member.model, **member.config["model_config"])
    load_weights(member.weights, model)
    return model.eval()


def spelled(
    member: Member, what: str, split: Split, ids: Sequence[str], strings: Sequence[Sequence[bytes]]
) -> list[np.ndarray]:
    """log P(string | utterance) under the member's speller: for each of `ids` an array like its `strings`.

    `what` is "oof", "dev" or "test", `split` the data that hold those utterances. Runs on the CPU.
    """
    path = member.path / f"{what}.spelled.safetensors"
    key = hashlib.sha256(member.weights.read_bytes()).hexdigest()[:16]
    known = read_spelled(path, key)
    new = [[s for s in each if s not in known.get(name, {})] for name, each in zip(ids, strings, strict=True)]
    if any(new):
        model = model_of(member)
        row_of = {name: row for row, name in enumerate(split.ids)}
        for name, each in zip(tqdm(ids, f"spell {member.name} {what}", leave=False, unit="utt"), new, strict=True):
            if each:
                features = torch.from_numpy(np.array(split.features(row_of[name])))
                scores = model.spelled(features, [list(string) for string in each]).tolist()
                known.setdefault(name, {}).update(zip(each, scores, strict=True))
        write_spelled(path, key, known)
    return [np.array([known[name][s] for s in each]) for name, each in zip(ids, strings, strict=True)]
