"""Attention rescoring: log P(hypothesis | utterance) under the attention decoders of LAS members.

Like the language model's scores, they enter a hypothesis's score with a weight that is fitted on out-of-fold distance.
An attention decoder takes a recurrent step per token, so only each utterance's most likely hypotheses are scored, and
the scores are cached in the runs folder.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.members.predictions import AttentionScorer, PackedHypothesis
from folds.data.dataset import Split
from folds.data.renormalized import as_read
from folds.store.attention_scores import read_attention_scores, write_attention_scores
from folds.store.fold_model import FoldModel, load_model
from folds.store.ragged import Ragged
from registry.console import track

# Number of hypotheses scored per utterance; the posterior mass outside the best 40 is too small to matter.
SCORED_HYPOTHESES = 40


def can_score(fold_models: Sequence[FoldModel], data: str) -> bool:
    """Whether all have an attention decoder and were trained on the data with this hash, whose features it reads."""
    return all(it.has_attention_scores and it.config.data.hash == data for it in fold_models)


def attention_scorer(
    fold_models: Sequence[FoldModel], split_name: str, split: Split, data: str
) -> AttentionScorer | None:
    """Scores by mean log-likelihood under the fold models; out of fold, under those that held out the utterance.

    None unless they `can_score` the `data`. `split_name` is "oof", "dev" or "test", `split` the data of its utterances.
    """
    if not can_score(fold_models, data):
        return None

    def scorer(ids: Sequence[str], hypotheses: Sequence[Sequence[PackedHypothesis]]) -> list[np.ndarray]:
        totals, counts = [np.zeros(len(candidates)) for candidates in hypotheses], np.zeros(len(ids))
        for fold_model in fold_models:
            predicted = set(fold_model.load("oof").ids) if split_name == "oof" else set(ids)
            rows = [row for row, utterance in enumerate(ids) if utterance in predicted]
            scores = attention_scores(
                fold_model, split_name, split, [ids[row] for row in rows], [hypotheses[row] for row in rows]
            )
            for row, row_scores in zip(rows, scores, strict=True):
                totals[row] += row_scores
                counts[row] += 1
        return [total / count for total, count in zip(totals, counts, strict=True)]

    return scorer


def pool_attention_scores(
    scorers: Sequence[Sequence[AttentionScorer]],
    ids: Sequence[str],
    offsets: np.ndarray,
    tokens: Ragged,
    ctc: np.ndarray,
) -> np.ndarray:
    """Score (H,) of every hypothesis, averaged over each member's `scorers`, then over members; zeros without any.

    Members count equally, regardless of their number of networks, as out of fold, where the score's weight is fitted.
    Utterance u has the hypotheses `offsets[u]:offsets[u + 1]` of `tokens`. The `SCORED_HYPOTHESES` with the highest
    mean of the log-likelihoods `ctc` (H, predictions) are scored. The others get the lowest of their scores, so that
    attention can raise a likely hypothesis but never an unlikely one.
    """
    scores = np.zeros(len(ctc))
    if not scorers:
        return scores
    # A hypothesis is impossible for a model with too few frames, which must not rule it out here either.
    mean = floor_likelihoods(ctc, offsets).mean(axis=1)
    spans = list(itertools.pairwise(offsets.tolist()))
    most_likely = [np.argsort(-mean[start:end], kind="stable")[:SCORED_HYPOTHESES] for start, end in spans]
    candidates = [
        [bytes(tokens[start + index].tolist()) for index in indices]
        for (start, _), indices in zip(spans, most_likely, strict=True)
    ]
    of_members = [[scorer(ids, candidates) for scorer in of_member] for of_member in scorers]
    for row, ((start, end), indices) in enumerate(zip(spans, most_likely, strict=True)):
        known = np.mean([np.mean([scored[row] for scored in own], axis=0) for own in of_members], axis=0)
        scores[start:end] = known.min()
        scores[start + indices] = known
    return scores


def attention_scores(
    fold_model: FoldModel,
    split_name: str,
    split: Split,
    ids: Sequence[str],
    hypotheses: Sequence[Sequence[PackedHypothesis]],
) -> list[np.ndarray]:
    """log P(hypothesis | utterance) under one fold model: per utterance of `ids` an array like its `hypotheses`.

    Arguments are as in `attention_scorer`. Runs on the CPU. Scores from the same weights are read from the run's cache,
    and new ones are added to it.
    """
    path = fold_model.folder.attention_scores(split_name)
    weights = fold_model.folder.weights_hash
    known = read_attention_scores(path, weights)
    new = [
        [hypothesis for hypothesis in candidates if hypothesis not in known.get(utterance, {})]
        for utterance, candidates in zip(ids, hypotheses, strict=True)
    ]
    if any(new):
        model, split = load_model(fold_model), as_read(split, fold_model.transform)
        description = f"attention scores, {fold_model.name} {split_name}"
        for utterance, candidates in track(list(zip(ids, new, strict=True)), description):
            if candidates:
                row = split.row_of[utterance]
                features = torch.from_numpy(np.array(split.features(row)))
                sequences = [list(candidate) for candidate in candidates]
                scores = model.attention_scores(features, sequences, split.groups[row : row + 1]).tolist()
                known.setdefault(utterance, {}).update(zip(candidates, scores, strict=True))
        write_attention_scores(path, weights, known)
    return [
        np.array([known[utterance][hypothesis] for hypothesis in candidates])
        for utterance, candidates in zip(ids, hypotheses, strict=True)
    ]
