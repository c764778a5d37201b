"""One model's log-probabilities for whole splits, and the distances of their greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from folds.competition.metric import edit_distances
from folds.data.batches import collate, plan
from folds.data.dataset import Dataset, Split
from folds.store.log_probs import LogProbs, write_log_probs
from folds.store.ragged import offsets_of
from folds.store.run_folder import SPLITS, RunFolder
from folds.training.cost import Cost, cpu_time
from models import BLANK, CTCModel
from models.ctc import greedy
from registry.console import track
from registry.json_files import write_json


@torch.no_grad()
def predict(
    model: CTCModel,
    split: Split,
    indices: Sequence[int] | np.ndarray,
    *,
    frames: int,
    alphabet_hash: str,
    device: torch.device,
    description: str = "",
) -> LogProbs:
    """Log-probabilities of the utterances at `indices`, in that order, in batches of at most `frames` frames.

    With a description, a progress bar is shown.
    """
    was_training = model.training
    model.eval()
    chosen = np.asarray(indices)
    # The result has C columns even without utterances.
    parts = [np.zeros((0, model.classes), np.float16)] * max(1, len(chosen))
    batches = plan(split.lengths[chosen], frames=frames)
    for positions in track(batches, description) if description else batches:
        batch = collate(split, chosen[positions]).to(device)
        log_probs, lengths = model(batch.features, batch.lengths, batch.groups)
        values, ends = log_probs.cpu().numpy().astype(np.float16), lengths.tolist()
        for row, position in enumerate(positions):
            parts[position] = values[row, : ends[row]]
    model.train(was_training)
    offsets = offsets_of(len(part) for part in parts[: len(chosen)])
    ids = tuple(split.ids[i] for i in chosen)
    return LogProbs(np.concatenate(parts), offsets, ids, alphabet_hash, BLANK, model.stride)


def greedy_distances(
    log_probs: LogProbs, split: Split, indices: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Edit distance of each utterance's greedy decoding to its transcript, int64 `(N,)`.

    `indices` are the utterances' positions in `split`; by default they are looked up by id.
    """
    if indices is None:
        indices = [split.row_of[utterance] for utterance in log_probs.ids]
    hypotheses = [greedy(log_probs[row][None], np.array([n]))[0] for row, n in enumerate(log_probs.lengths)]
    return edit_distances(hypotheses, [split.labels(i) for i in indices])


def write_predictions(
    model: CTCModel,
    dataset: Dataset,
    held_out: np.ndarray,
    folder: RunFolder,
    *,
    frames: int,
    device: torch.device,
    cost: Cost,
    with_dev: bool = False,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write predictions for train's `held_out`, for dev and for test; report each split's mean greedy distance.

    `frames` is the maximum batch size. `cost`, the cost of training, goes to the summary with the distances. A model
    trained `with_dev` predicts dev, but is not evaluated on it. `check`, called before each file is written, raises if
    another process has taken over the run.
    """
    indices_of = {"oof": held_out, "dev": np.arange(len(dataset.dev)), "test": np.arange(len(dataset.test))}
    distances: dict[str, float] = {}
    for name in SPLITS:
        split, indices = dataset.split(name), indices_of[name]
        log_probs = predict(
            model,
            split,
            indices,
            frames=frames,
            alphabet_hash=dataset.alphabet.hash,
            device=device,
            description=f"{folder.title}, predicting {name}",
        )
        if split.tokens is not None and len(indices) and not (name == "dev" and with_dev):
            distances[name] = round(float(greedy_distances(log_probs, split, indices).mean()), 4)
        check()
        # The run counts as finished once all splits' predictions exist, so everything else is written before the last.
        write_json(folder.summary, {"greedy_distance": distances, **cost.as_json()})
        write_log_probs(folder.predictions(name), log_probs)
    listed = ", ".join(f"{name} {distance:.3f}" for name, distance in distances.items())
    measured = f"greedy distance {listed}; " if distances else ""
    print(f"{folder.title}: {measured}{cpu_time(60 * cost.cpu_minutes)}; wrote {folder.path}")
