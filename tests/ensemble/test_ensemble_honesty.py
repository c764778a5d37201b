"""Nested distances are honest: where nothing can be learned, no blender beats its best member by more than chance."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blenders.base import BLENDERS, nested_distances
from folds.competition.bootstrap import paired_bootstrap
from folds.competition.metric import edit_distances

UTTERANCES = 32
OUTER_FOLDS = 2


@pytest.fixture(scope="module")
def shuffled():
    """Inputs whose references are shuffled within the outer folds.

    The references are equally long and their labels equally frequent; otherwise a blender could learn, honestly, to
    prefer hypotheses of the usual length or with the most frequent labels.
    """
    rng = np.random.default_rng(5)
    references = rng.integers(1, simulated.CLASSES, (UTTERANCES, 9)).tolist()
    members = {name: [simulated.log_probs(references, error=0.3, seed=seed)] for seed, name in enumerate("abc")}
    rows = np.arange(UTTERANCES)
    for fold in range(OUTER_FOLDS):
        rows[fold::OUTER_FOLDS] = rng.permutation(rows[fold::OUTER_FOLDS])
    return simulated.inputs(members, [references[row] for row in rows], OUTER_FOLDS, nbest_size=10, pool_size=20)


@pytest.mark.parametrize("name", [name for name in BLENDERS.names() if name != "best"])
def test_with_shuffled_labels_no_blender_beats_its_best_member(name, shuffled):
    nested = nested_distances(BLENDERS.get(name)(), shuffled)
    members = [edit_distances(shuffled.nbest(index).best, shuffled.references) for index in range(3)]
    best = min(members, key=lambda distances: float(distances.mean()))
    difference = paired_bootstrap(nested, best)
    assert difference.high >= 0, f"{name} is better by {difference} on labels that nothing can predict"
