"""The best member alone, decoded with the language model: the member and settings chosen, and what it predicts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.beam import beam_search
from ensemble.blenders.base import BlendRecipe, distances
from ensemble.blenders.best import FittedBlender, best_recipe, fit_blenders, lowest_nested, winner
from ensemble.blenders.single import CANDIDATES, Single, fit_first_pass, leading_members
from ensemble.hypotheses import first_pass
from folds.competition.metric import edit_distances
from models.ctc import log_likelihood
from registry import Registry

REFERENCES = simulated.references(24, length=10)
ERRORS = {"a": 0.35, "b": 0.2, "c": 0.3, "d": 0.6}


@pytest.fixture(scope="module")
def oof():
    members = {n: [simulated.log_probs(REFERENCES, error=error, seed=i)] for i, (n, error) in enumerate(ERRORS.items())}
    return simulated.inputs(members, REFERENCES)


def first_pass_distances(inputs, index, settings):
    """Distances by one search per utterance."""
    best = []
    for row, log_probs in enumerate(inputs.load(index)[u] for u in range(len(inputs))):
        lm = inputs.split.language_models[inputs.outer_folds[row]]
        (nbest,) = beam_search(log_probs[None], [len(log_probs)], beam=50, lm=lm, **settings)
        best.append(list(nbest[0].tokens))
    return edit_distances(best, inputs.references)


def test_the_member_and_the_settings_of_least_first_pass_distance_are_chosen(oof):
    recipe = Single().fit(oof)
    (name,) = recipe.weights
    leading = leading_members(oof)
    assert len(leading) == CANDIDATES and oof.names.index("d") not in leading
    values = {member: fit_first_pass(oof, member)[1] for member in leading}
    assert oof.names.index(name) == min(values, key=values.get)
    index = oof.names.index(name)
    assert first_pass_distances(oof, index, recipe.settings).mean() == pytest.approx(values[index])
    weight, bonus = recipe.settings["lm_weight"], recipe.settings["length_bonus"]
    for i, j in product((-1, 0, 1), repeat=2):
        near = {"lm_weight": max(0.0, weight + 0.05 * i), "length_bonus": bonus + 0.2 * j}
        assert first_pass_distances(oof, index, near).mean() >= values[index] - 1e-9


def test_out_of_fold_it_is_the_first_pass_of_one_member(oof):
    recipe = BlendRecipe("single", {"c": 1.0}, {"lm_weight": 0.3, "length_bonus": 0.5})
    expected = first_pass_distances(oof, 2, recipe.settings)
    assert distances(Single(), oof, recipe).tolist() == expected.tolist()


def test_two_equal_networks_predict_what_one_does():
    one = simulated.log_probs(REFERENCES)
    recipe = BlendRecipe("single", {"a": 1.0}, {"lm_weight": 0.3, "length_bonus": 0.5})
    single, double = (simulated.inputs({"a": [one] * count}, REFERENCES) for count in (1, 2))
    assert Single().predict(double, recipe) == Single().predict(single, recipe)


def test_several_networks_choose_the_hypothesis_of_highest_mean_score():
    """Among all that they propose, by exact likelihoods, the language model and the bonus."""
    networks = [simulated.log_probs(REFERENCES, error=0.4, seed=seed) for seed in (1, 2)]
    inputs = simulated.inputs({"a": networks}, REFERENCES)
    settings = {"lm_weight": 0.3, "length_bonus": 0.5}
    predicted = Single().predict(inputs, BlendRecipe("single", {"a": 1.0}, settings))
    pool = inputs.pool([0])
    for row, hypothesis in enumerate(predicted):
        span = range(pool.offsets[row], pool.offsets[row + 1])
        candidates = [pool.tokens[h].tolist() for h in span]
        lm = inputs.split.language_models[inputs.outer_folds[row]]
        scores = np.mean([log_likelihood(inputs.load(index)[row], candidates) for index in (0, 1)], axis=0)
        scores += [0.3 * lm.score(tokens) + 0.5 * len(tokens) for tokens in candidates]
        assert scores[candidates.index(hypothesis)] == pytest.approx(scores.max())


def test_the_fits_of_nested_cross_validation_share_their_trials(oof, monkeypatch):
    fit_first_pass(oof, 1)
    rows, calls = np.flatnonzero(oof.outer_folds == 0), []
    original = first_pass.decode_in_batches
    monkeypatch.setattr(first_pass, "decode_in_batches", lambda *a, **k: calls.append(k) or original(*a, **k))
    settings, distance = fit_first_pass(oof.take(rows), 1)
    assert len(calls) < 30
    again = len(calls)
    assert fit_first_pass(oof.take(rows), 1) == (settings, distance) and len(calls) == again
    assert first_pass_distances(oof, 1, settings)[rows].mean() == pytest.approx(distance)


def fitted(nested, weighs_networks=True):
    recipe = BlendRecipe("any", {"a": 1.0})
    return FittedBlender(recipe, np.zeros(len(nested)), np.array(nested), weighs_networks=weighs_networks)


def test_an_average_of_networks_is_chosen_only_if_it_is_clearly_better():
    """Averaging is 0.1 better, with a standard error of 0.095, and then 1 better with none."""
    average = fitted([5] * 10, weighs_networks=False)
    assert winner({"average": average, "mbr": fitted([6] + [5] * 9), "rank": fitted([6, 6] + [5] * 8)}) == "mbr"
    assert winner({"average": average, "rover": fitted([5] * 9 + [6])}) == "rover"  # each member has one vote
    assert winner({"average": average, "mbr": fitted([6] * 10)}) == "average"
    assert lowest_nested({"average": average, "mbr": fitted([5] * 10), "rank": fitted([5] * 10)}) == "mbr"
    # Ten utterances of two speakers say less than ten of ten.
    other = fitted([6] * 5 + [5] * 5)
    alike = [replace(blender, groups=(*"aaaaabbbbb",)) for blender in (average, other)]
    assert winner({"average": alike[0], "mbr": alike[1]}) == "mbr"
    assert winner({"average": average, "mbr": other}) == "average"
    noisy = fitted([12] + [5] * 9)  # within its errors, but worse than what is too far away
    assert winner({"average": average, "mbr": fitted([5.3] * 10), "single": noisy}) == "average"


class Constant:
    """Predicts nothing, or of `single` the references."""

    def __init__(self, name):
        self.name, self.weighs_networks = name, name == "single"

    def fit(self, inputs, seed=0):
        return BlendRecipe(self.name, {"a": 1.0})

    def predict(self, inputs, recipe):
        return inputs.references if self.name == "single" else [[] for _ in inputs.references]


def test_what_a_blender_says_of_networks_is_kept_with_its_fit(oof):
    """So the choice asks no registry, where another blender may have the same name."""
    blenders = Registry("own_blenders", package="ensemble.words")
    for name in ("average", "single"):
        blenders.register(name)(lambda name=name: Constant(name))
    fits = fit_blenders(oof, ["average", "single"], blenders=blenders)
    assert {name: fit.weighs_networks for name, fit in fits.items()} == {"average": False, "single": True}
    assert winner(fits) == best_recipe(fits).settings["chosen"] == "single"


def test_no_blend_is_chosen_over_a_better_single_member():
    assert winner({"mbr": fitted([4, 6]), "single": fitted([4, 5]), "rescore": fitted([9, 1])}) == "single"
