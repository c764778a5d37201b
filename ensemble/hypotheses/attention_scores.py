"""The second kind of score: what the attention spellers of LAS members say of a pool's strings.

It joins the pool's scores as the language model's does, with a weight of its own that out-of-fold distance chooses.
A speller costs a recurrent step a token, so it is asked for each utterance's likeliest strings only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from ensemble.hypotheses.likelihoods import floor_likelihoods
from folds.data.dataset import Split
from folds.store.attention_scores import read_attention_scores, write_attention_scores
from folds.store.fold_model import FoldModel, load_model

# Strings of an utterance that a speller is asked for; the posterior outside the best 40 is too small to matter.
SCORED_STRINGS = 40

AttentionScorer = Callable[[Sequence[str], Sequence[Sequence[bytes]]], list[np.ndarray]]


def attention_scorer(members: Sequence[FoldModel], what: str, split: Split) -> AttentionScorer | None:
    """Mean log-likelihood under the members that may speak of an utterance: out of fold, those that held it out.

    None unless all of them have a speller.
    """
    if not all(member.has_attention_scores for member in members):
        return None

    def spell(ids: Sequence[str], strings: Sequence[Sequence[bytes]]) -> list[np.ndarray]:
        total, counts = [np.zeros(len(each)) for each in strings], np.zeros(len(ids))
        for member in members:
            held = set(member.load("oof").ids) if what == "oof" else set(ids)
            rows = [row for row, name in enumerate(ids) if name in held]
            found = spelled(member, what, split, [ids[row] for row in rows], [strings[row] for row in rows])
            for row, scores in zip(rows, found, strict=True):
                total[row] += scores
                counts[row] += 1
        return [each / count for each, count in zip(total, counts, strict=True)]

    return spell


def pool_attention_scores(
    spells: Sequence[AttentionScorer], ids: Sequence[str], strings: Sequence[Sequence[bytes]], columns: np.ndarray
) -> np.ndarray:
    """Mean log-likelihood (H,) of every string of every pool under the spellers; zeros without any.

    `columns` (H, streams) are the CTC log-likelihoods, whose mean tells which strings are asked for. The others get
    the lowest score of those, so that a speller can raise a likely string but never an unlikely one.
    """
    out = np.zeros(len(columns))
    if not spells:
        return out
    offsets = np.concatenate([[0], np.cumsum([len(pool) for pool in strings])]).astype(np.int64)
    # A stream too coarse for a string's length finds it impossible; that is no veto here either.
    mean = floor_likelihoods(columns, offsets).mean(axis=1)
    spans = list(zip(offsets[:-1], offsets[1:], strict=True))
    best = [np.argsort(-mean[start:end], kind="stable")[:SCORED_STRINGS] for start, end in spans]
    asked = [[pool[i] for i in top] for pool, top in zip(strings, best, strict=True)]
    scores = [np.mean(each, axis=0) for each in zip(*(spell(ids, asked) for spell in spells), strict=True)]
    for (start, end), top, found in zip(spans, best, scores, strict=True):
        out[start:end] = found.min()
        out[start + top] = found
    return out


def spelled(
    member: FoldModel, what: str, split: Split, ids: Sequence[str], strings: Sequence[Sequence[bytes]]
) -> list[np.ndarray]:
    """log P(string | utterance) under the member's speller: for each of `ids` an array like its `strings`.

    `what` is "oof", "dev" or "test", `split` the data that hold those utterances. Runs on the CPU.
    """
    path = member.path / f"{what}.spelled.safetensors"
    key = hashlib.sha256(member.folder.weights.read_bytes()).hexdigest()[:16]
    known = read_attention_scores(path, key)
    new = [[s for s in each if s not in known.get(name, {})] for name, each in zip(ids, strings, strict=True)]
    if any(new):
        model = load_model(member)
        row_of = {name: row for row, name in enumerate(split.ids)}
        for name, each in zip(tqdm(ids, f"spell {member.name} {what}", leave=False, unit="utt"), new, strict=True):
            if each:
                features = torch.from_numpy(np.array(split.features(row_of[name])))
                scores = model.spelled(features, [list(string) for string in each]).tolist()
                known.setdefault(name, {}).update(zip(each, scores, strict=True))
        write_attention_scores(path, key, known)
    return [np.array([known[name][s] for s in each]) for name, each in zip(ids, strings, strict=True)]
