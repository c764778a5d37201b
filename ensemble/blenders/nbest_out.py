"""A blender's posterior over its pools, truncated to the most probable hypotheses: the training targets of students.

Networks are adapted to speakers by the same hypotheses (`folds.adapt`).

Those of training utterances are out of fold, as are the scores of their pools; the blender's few settings are fitted on
all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blenders.base import BLENDERS, BlendRecipe, PosteriorBlender, restricted
from ensemble.blenders.best import FittedBlender, lowest_nested
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import OpenedInputs
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scoring import keep_best
from ensemble.members.eligibility import all_tags
from ensemble.members.member import Member
from folds.data.dataset import Dataset
from folds.store.nbest_file import NBestFile, NBestHypotheses, file_hash, write_nbest_file
from folds.store.ragged import offsets_of
from registry import InputError

MOST_HYPOTHESES = 8
"""Maximum hypotheses per utterance of a teacher; each costs its student one more CTC loss per step."""
LEAST_POSTERIOR = 1e-3
"""Posterior above which a hypothesis is kept; the most probable one always is."""


def posterior_blenders() -> list[str]:
    """Names of the registered blenders with a posterior over a pool."""
    blenders: dict[str, object] = {name: BLENDERS.get(name) for name in BLENDERS.names()}
    return [name for name, it in blenders.items() if isinstance(it, type) and issubclass(it, PosteriorBlender)]


def check_has_posterior(method: str) -> None:
    """Raise InputError for a method without a posterior; `best` uses that of one of the blenders it compares."""
    able = posterior_blenders()
    if method not in ("best", *able):
        raise InputError(f"--nbest-out: {method} has no posterior over hypotheses: use --method {' or '.join(able)}")


def nbest_method(fitted: Mapping[str, FittedBlender]) -> str:
    """The fitted blender with a posterior and the lowest nested distance."""
    able = posterior_blenders()
    return lowest_nested({name: blender for name, blender in fitted.items() if name in able})


def nbest_hypotheses(
    inputs: BlendInputs, recipe: BlendRecipe, kept: Sequence[Member] | None = None
) -> NBestHypotheses:
    """The most probable hypotheses of each utterance, with their posteriors.

    `kept` are the members as in `predict_with`; None for the out-of-fold split, which has no networks to choose from.
    """
    if kept is not None:
        inputs, recipe = restricted(inputs, recipe, kept)
    with BLENDERS.using(recipe.method):
        blender = BLENDERS.get(recipe.method)()
        assert isinstance(blender, PosteriorBlender)  # see `check_has_posterior` and `nbest_method`
        return most_probable(inputs.split.ids, *blender.posteriors(inputs, recipe))


def write_nbest(
    path: Path, out: Path, inputs: OpenedInputs, fitted: Mapping[str, FittedBlender], dataset: Dataset
) -> dict[str, Any]:
    """Write the hypotheses of all splits, and return their entry for the sidecar of the submission `out`.

    All training utterances get hypotheses, even if weights were fitted on only a part of them.
    """
    method = nbest_method(fitted)
    recipe = fitted[method].recipe
    kept = inputs.keep(recipe.weights, inputs.networks)
    oof = nbest_hypotheses(inputs.oof_without_limit(dataset), recipe)
    dev, test = (nbest_hypotheses(split, recipe, kept) for split in (inputs.dev, inputs.test))
    write_nbest_file(path, NBestFile(oof, dev, test, dataset.hash, dataset.alphabet.hash))
    print(f"wrote {path}: {len(oof.tokens)} hypotheses of {len(oof.ids)} out-of-fold utterances, by {method}")
    # The student inherits the tags of the members that this blender weighs, whichever blender is chosen.
    tags = all_tags([member for member in inputs.members if recipe.weights.get(member.name)])
    return {"file": os.path.relpath(path, out.parent), "sha256": file_hash(path), "method": method, "tags": tags}


def most_probable(ids: Sequence[str], pool: Pool, posteriors: np.ndarray) -> NBestHypotheses:
    """Each utterance's most probable hypotheses, with `posteriors` (H,) renormalised to sum to 1."""
    best, best_offsets = keep_best(posteriors, pool.offsets, MOST_HYPOTHESES)
    rows = np.repeat(np.arange(len(pool)), np.diff(best_offsets))
    peaks = np.maximum.reduceat(posteriors[best], best_offsets[:-1])[rows]
    likely = (posteriors[best] > LEAST_POSTERIOR) | (posteriors[best] == peaks)
    kept, rows = best[likely], rows[likely]
    masses = np.bincount(rows, posteriors[kept], minlength=len(pool))
    offsets = offsets_of(np.bincount(rows, minlength=len(pool)))
    normalized = (posteriors[kept] / masses[rows]).astype(np.float32)
    return NBestHypotheses(tuple(ids), offsets, pool.tokens.take(kept), normalized)
