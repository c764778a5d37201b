"""Log-probabilities of a whole split from one model, and the greedy distance they give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from folds.competition.metric import edit_distances
from folds.data.batches import collate, plan
from folds.data.dataset import Split
from folds.store.log_probs import LogProbs
from models import BLANK, CTCNetwork
from models.ctc import greedy


@torch.no_grad()
def predict(
    model: CTCNetwork, split: Split, indices: Sequence[int], *, frames: int, alphabet: str, device: torch.device
) -> LogProbs:
    """Log-probabilities of the utterances at `indices`, in that order, in batches of at most `frames` frames."""
    was_training = model.training
    model.eval()
    chosen = np.asarray(indices)
    # No utterance is a prediction too: of no rows.
    parts = [np.zeros((0, model.output.out_features), np.float16)] * max(1, len(chosen))
    for positions in plan(split.lengths[chosen], frames=frames):
        batch = collate(split, chosen[positions]).to(device)
        log_probs, lengths = model(batch.features, batch.lengths)
        values, ends = log_probs.cpu().numpy().astype(np.float16), lengths.tolist()
        for row, position in enumerate(positions):
            parts[position] = values[row, : ends[row]]
    model.train(was_training)
    ids = tuple(split.ids[i] for i in chosen)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts[: len(chosen)]])]).astype(np.int64)
    return LogProbs(np.concatenate(parts), offsets, ids, alphabet, BLANK, model.stride)


def greedy_distances(log_probs: LogProbs, split: Split, indices: Sequence[int]) -> np.ndarray:
    """Edit distance of each utterance's greedy decoding to its transcript, int64 `(N,)`."""
    hypotheses = [greedy(log_probs[row][None], np.array([n]))[0] for row, n in enumerate(log_probs.lengths)]
    return edit_distances(hypotheses, [split.labels(i) for i in indices])
