"""Nested distances are honest: where nothing can be learned, no blender beats its best member by more than chance."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blenders.base import BLENDERS, nested_distances
from ensemble.decoding.language_models import estimate_language_models
from ensemble.hypotheses.nested_folds import assign_outer_folds
from ensemble.hypotheses.open_inputs import InputOptions, _limit_utterances
from ensemble.lm.ngram import estimate
from ensemble.members.out_of_fold import OutOfFold
from folds.competition.bootstrap import paired_bootstrap
from folds.competition.metric import edit_distances
from folds.data.cache import load_dataset
from registry import InputError

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


def test_the_language_model_of_an_outer_fold_has_none_of_its_speakers(tiny):
    """Nor of its utterances, where folds divide speakers."""
    dataset = load_dataset(tiny, progress=False)
    train, classes = dataset.train, dataset.alphabet.classes

    def cells(rows):
        return estimate([train.labels(row).tolist() for row in rows], classes, 3).automaton.cells

    numbers = sorted(set(train.groups))
    by_speaker = np.array([numbers.index(speaker) % 2 for speaker in train.groups])
    by_utterance = np.arange(len(train)) % 2
    # Of each speaker only every third utterance is out of fold; the speaker's others are left out too.
    for folds, step in ((by_speaker, 3), (by_utterance, 1)):
        models = estimate_language_models(dataset, train.ids[::step], folds[::step], 3)
        for fold in (0, 1):
            np.testing.assert_array_equal(models[fold].automaton.cells, cells(np.flatnonzero(folds != fold).tolist()))


def test_outer_folds_of_one_training_fold():
    folds, (note,) = assign_outer_folds(np.zeros(8, int), list("ebacdeba"))
    assert folds.tolist() == [0, 1, 0, 2, 3, 0, 1, 0] and "over 4 groups of speakers" in note
    assert assign_outer_folds(np.zeros(5, int), list("aaaaa"))[0].tolist() == [0, 1, 2, 3, 0]
    folds, (note,) = assign_outer_folds(np.zeros(2, int), list("aa"))
    assert folds.tolist() == [0, 1] and note.endswith("nested distances are over 2 groups of utterances")


def test_utterances_that_are_drawn_keep_their_folds():
    """Otherwise they would be scored by a language model of their own transcripts."""
    folds, outer_folds = np.arange(40) % 5, np.arange(40) // 10
    everything = OutOfFold([str(number) for number in range(40)], folds, [])
    drawn, outer = _limit_utterances(everything, outer_folds, InputOptions(fit_limit=12))
    rows = np.array(list(map(int, drawn.ids)))
    assert len(rows) == 12 and (np.diff(rows) > 0).all() and rows[-1] > 12
    assert drawn.folds.tolist() == folds[rows].tolist() and outer.tolist() == outer_folds[rows].tolist()


def test_utterances_drawn_from_a_single_outer_fold_are_refused():
    """Nested cross-validation fits on the other folds, of which none would be left."""
    everything, outer_folds = OutOfFold(list("abcdef"), np.zeros(6, int), []), np.array([0, 0, 0, 0, 0, 1])
    with pytest.raises(InputError, match="^--fit-limit 2: all utterances drawn are in one outer fold, .*: raise"):
        _limit_utterances(everything, outer_folds, InputOptions(fit_limit=2, seed=0))
    assert set(_limit_utterances(everything, outer_folds, InputOptions(fit_limit=6))[1]) == {0, 1}
