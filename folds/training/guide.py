"""Guided CTC: a model learns to spike on the same frames as a trained model, its guide.

CTC models are free to choose the frames of their spikes, so averaging two of them frame by frame loses spikes of both,
even at the same stride. Models with the same guide spike together (Kurata & Audhkhasi 2019, arXiv 1904.08311).

The guide reads the features of each batch with its speed perturbation but without masks. Stretching the guide's spikes
on the original utterances instead would save its forward pass, but spikes are one or two output frames wide, and
rounding would shift many of them to a neighbouring frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from folds.data.batches import Batch
from folds.data.cache import cache_folder
from folds.store.fold_model import FoldModel, load_model, read_finished, training_tags
from folds.store.remote import download_run, store_url
from folds.store.run_folder import RunFolder
from models import BLANK, CTCModel
from models.features import FeatureTransform
from models.layers.lengths import Lengths
from registry import InputError


@dataclass(frozen=True, eq=False)
class Guide:
    """A trained network, in evaluation mode and without gradients, and what the guided run records about it."""

    network: CTCModel
    facts: dict[str, Any]

    @torch.no_grad()
    def spikes(self, batch: Batch) -> Tensor:
        """The class of highest posterior in each output frame, int64 `(N, T')`, for all views of the batch.

        This is the blank where the guide does not spike, and past the end of an utterance. Needs `batch.unmasked`.
        """
        assert batch.unmasked is not None
        utterances = len(batch.unmasked)
        log_probs, lengths = self.network(batch.unmasked, batch.lengths[:utterances], batch.groups[:utterances])
        valid = Lengths(lengths).mask(log_probs.shape[1], log_probs.device)
        spikes = log_probs.argmax(dim=2).masked_fill(~valid, BLANK)
        return spikes.repeat(len(batch.lengths) // utterances, 1)


def guided_posterior(log_probs: Tensor, spikes: Tensor) -> Tensor:
    """Sum of the posteriors at a guide's spikes: log-probabilities `(N, T', C)`, spikes `(N, T')` → a scalar.

    The paper's sum of the masked posteriors; the mask is 1 at the guide's class unless that is the blank.
    """
    posteriors = log_probs.gather(2, spikes[:, :, None]).squeeze(2).exp()
    return (posteriors * (spikes != BLANK)).sum()


def find_guide(path: Path, fold: int) -> FoldModel:
    """The finished run in the folder `path`, or the run of this fold if `path` is a member's folder.

    Either may be a URL, from which the run is downloaded. Raises InputError unless it has predictions and weights.
    """
    if store_url(path) is not None:
        run = path if re.fullmatch(r"fold\d+", path.name) else path / f"fold{fold}"
        return read_finished(RunFolder(download_run(run, cache_folder() / "stores")), f"--guide {path}")
    run_folder = RunFolder(path)
    return read_finished(run_folder if run_folder.begun else RunFolder(path / f"fold{fold}"), f"--guide {path}")


def open_guide(path: Path, run: FoldModel) -> Guide:
    """The guide for `run`, which is about to be trained.

    Raises InputError for a guide of other data or of another stride, and for one that does not hold out the same
    utterances: the spikes of a model trained on them would leak their transcripts.
    """
    guide = find_guide(path, run.fold)
    _check(guide, f"--guide {path}", run)
    facts = {
        "from": str(path),
        "model": guide.model,
        "weights": guide.folder.weights_hash,
        "select": guide.config.select,
        "tags": training_tags(guide.tags),
    }
    return Guide(load_model(guide).requires_grad_(False), facts)


def _described(transform: FeatureTransform) -> str:
    return f"normalisation by {transform.normalization}, smoothing {transform.smooth:g} and delay {transform.delay}"


def _check(guide: FoldModel, option: str, run: FoldModel) -> None:
    """Raise InputError unless `guide` fits `run` and leaks nothing; messages begin with `option`."""
    theirs, ours = guide.config, run.config
    for what, given, expected in (
        ("a different alphabet", theirs.data.alphabet, ours.data.alphabet),
        ("a different number of features", theirs.model_config.get("features"), ours.model_config["features"]),
        ("different data", theirs.data.hash, ours.data.hash),
    ):
        if given != expected:
            raise InputError(
                f"{option}: {guide.path} was trained with {what} ({given}, here {expected}): use a guide trained on "
                "the same data"
            )
    if guide.transform != run.transform:
        raise InputError(
            f"{option}: {guide.path} was trained on features with {_described(guide.transform)}, this run with "
            f"{_described(run.transform)}: use a guide with the same --normalise, not a delayed one"
        )
    if guide.stride != run.stride:
        raise InputError(
            f"{option}: {guide.path} has stride {guide.stride}, {run.model} has {run.stride}: use a guide of the same "
            "stride"
        )
    held_out, expected = _held_out(guide), _held_out(run)
    if held_out != expected:
        raise InputError(
            f"{option}: {guide.path} holds out {held_out}, this run {expected}: use a guide that holds out the same "
            "utterances, so that it does not leak their transcripts"
        )
    if guide.with_dev and not run.with_dev:
        raise InputError(
            f"{option}: {guide.path} was trained on dev too, on which this run is measured: use a guide that was not, "
            "or train this run --with-dev"
        )


def _held_out(run: FoldModel) -> str:
    return f"fold {run.fold} of {run.folds} (fold assignment {run.fold_assignment})" if run.folds > 1 else "nothing"
