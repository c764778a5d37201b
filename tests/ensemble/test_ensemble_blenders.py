"""The contract every registered blender keeps, on simulated members of unequal strides."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blenders.base import BLENDERS, BlendRecipe, distances, nested_distances
from ensemble.blenders.best import FittedBlender, best_recipe, fit_blenders, methods_of
from ensemble.hypotheses.scoring import combined_scores
from ensemble.mbr import mbr
from folds.competition.metric import edit_distances
from registry.errors import InputError, PlugInError

STRIDES = {"a": 4, "b": 2, "c": 4}
ERRORS = {"a": 0.25, "b": 0.3, "c": 0.35}


@pytest.fixture(scope="module")
def references():
    return simulated.references(40, length=12)


@pytest.fixture(scope="module")
def oof(references):
    members = {n: [simulated.log_probs(references, STRIDES[n], ERRORS[n], seed=i)] for i, n in enumerate(STRIDES)}
    return simulated.inputs(members, references)


@pytest.fixture(scope="module")
def dev_references():
    return simulated.references(40, length=12, seed=7)


@pytest.fixture(scope="module")
def dev(dev_references):
    members = {
        n: [simulated.log_probs(dev_references, STRIDES[n], ERRORS[n], seed=100 + 10 * i + fold) for fold in range(2)]
        for i, n in enumerate(STRIDES)
    }
    return simulated.inputs(members, dev_references, outer_folds=1)


class Recipes(dict):
    """The recipe of each blender, fitted when it is asked for: tests of one blender fit no others."""

    def __init__(self, oof):
        super().__init__()
        self.oof = oof

    def __missing__(self, name):
        self[name] = BLENDERS.get(name)().fit(self.oof, seed=0)
        return self[name]


@pytest.fixture(scope="module")
def recipes(oof):
    return Recipes(oof)


def single_distance(inputs, index):
    """Mean distance of one model by itself."""
    return edit_distances(inputs.nbest(index).best, inputs.references).mean()


@pytest.mark.parametrize("name", [name for name in BLENDERS.names() if name != "best"])
class TestContract:
    def test_members_without_weight_may_be_gone(self, name, recipes, references, dev, dev_references):
        """As for `ensemble.transcribe`, which opens only the others."""
        recipe = recipes[name]
        first = max(recipe.weights, key=lambda member: recipe.weights[member])
        recipe = replace(recipe, weights={first: 1.0})
        own = [prediction for prediction in dev.split.predictions if dev.names[prediction.member] == first]
        alone = {first: [prediction.load() for prediction in own]}
        inputs = simulated.inputs(alone, dev_references, outer_folds=1)
        assert BLENDERS.get(name)().predict(inputs, recipe) == BLENDERS.get(name)().predict(dev, recipe)

    def test_weights_are_of_members_and_sum_to_one(self, name, recipes, oof):
        recipe = recipes[name]
        assert recipe.method == name
        assert set(recipe.weights) <= set(oof.names)
        assert sum(recipe.weights.values()) == pytest.approx(1)
        assert all(weight > 0 for weight in recipe.weights.values())

    def test_survives_json(self, name, recipes, oof):
        again = BlendRecipe(**json.loads(json.dumps(recipes[name].to_json())))
        blender = BLENDERS.get(name)()
        assert blender.predict(oof, again) == blender.predict(oof, recipes[name])

    def test_is_no_worse_than_the_best_member_out_of_fold(self, name, recipes, oof):
        blended = distances(BLENDERS.get(name)(), oof, recipes[name]).mean()
        assert blended <= min(single_distance(oof, index) for index in range(3)) + 1e-9

    def test_predicts_from_several_fold_models_about_as_well_or_better(self, name, recipes, dev):
        blended = distances(BLENDERS.get(name)(), dev, recipes[name]).mean()
        assert blended < 1.05 * np.mean([single_distance(dev, index) for index in dev.prediction_indices([0])])

    def test_does_not_use_references(self, name, recipes, dev):
        blind = dev.with_split(replace(dev.split, references=None))
        blender = BLENDERS.get(name)()
        assert blender.predict(blind, recipes[name]) == blender.predict(dev, recipes[name])

    def test_one_member_alone_works(self, name, references):
        one = simulated.inputs({"only": [simulated.log_probs(references)]}, references)
        recipe = BLENDERS.get(name)().fit(one)
        assert recipe.weights == {"only": 1.0}
        assert distances(BLENDERS.get(name)(), one, recipe).mean() <= single_distance(one, 0)

    def test_budget_is_kept(self, name, oof):
        split = replace(oof.split, parameters=(10, 10, 10), max_params=20)
        recipe = BLENDERS.get(name)().fit(replace(oof, split=split))
        assert len(recipe.weights) <= 2
        twins = replace(split, max_params=10, same_networks=(0, 0, 2))
        used = set(BLENDERS.get(name)().fit(replace(oof, split=twins)).weights)
        assert used <= set(oof.names[:2]) or used == {oof.names[2]}


@pytest.mark.parametrize("name", ["average", "mbr", "rescore", "rover"])
def test_same_seed_same_recipe(name, references, recipes):
    """Also from inputs of their own, for which nothing was computed before."""
    members = {n: [simulated.log_probs(references, STRIDES[n], ERRORS[n], seed=i)] for i, n in enumerate(STRIDES)}
    assert BLENDERS.get(name)().fit(simulated.inputs(members, references), seed=0) == recipes[name]


@pytest.mark.parametrize("name", ["rescore", "mbr", "rover"])
def test_settings_are_fitted_on_what_the_members_with_weight_propose(name, references):
    """A member of random predictions gets no weight, and the recipe is as good as without it."""
    useful = {n: [simulated.log_probs(references, STRIDES[n], ERRORS[n], seed=i)] for i, n in enumerate(STRIDES)}
    useless = replace(useful["a"][0], values=np.random.default_rng(0).permutation(useful["a"][0].values))
    inputs = simulated.inputs(useful | {"z": [useless]}, references)
    blender = BLENDERS.get(name)()
    recipe = blender.fit(inputs)
    assert "z" not in recipe.weights
    fitted = distances(blender, inputs, recipe).mean()
    grid = {"lm_weight": (0.0, 0.1, 0.3), "length_bonus": (-0.2, 0.0, 0.5)}
    for key, values in grid.items():
        for value in values if key in recipe.settings else ():
            other = replace(recipe, settings=recipe.settings | {key: value})
            assert distances(blender, inputs, other).mean() >= fitted - 1e-9


@pytest.mark.parametrize("name", ["rescore", "mbr"])
def test_order_of_members_changes_nothing(name, oof, references, recipes):
    order = ("c", "a", "b")
    members = {n: [oof.split.predictions[oof.names.index(n)].load()] for n in order}
    shuffled = simulated.inputs(members, references)
    blender = BLENDERS.get(name)()
    assert blender.fit(shuffled) == recipes[name]
    assert blender.predict(shuffled, recipes[name]) == blender.predict(oof, recipes[name])


def test_sequence_level_is_no_worse_than_the_frame_average_on_unequal_strides(oof, dev, recipes):
    names = ("rescore", "mbr", "average")
    means = {name: distances(BLENDERS.get(name)(), dev, recipes[name]).mean() for name in names}
    assert min(means["rescore"], means["mbr"]) <= means["average"]


def test_nested_distances_come_from_recipes_fitted_on_the_other_outer_folds(oof):
    class FirstReference:
        """Its recipe is the reference of the first utterance it is fitted on."""

        def fit(self, inputs, seed=0):
            return BlendRecipe("first", {}, {"reference": list(inputs.references[0])})

        def predict(self, inputs, recipe):
            return [recipe.settings["reference"]] * len(inputs)

    nested = nested_distances(FirstReference(), oof)
    first_of_other_fold = [oof.references[1], oof.references[0]]
    expected = edit_distances([first_of_other_fold[fold] for fold in oof.outer_folds], oof.references)
    assert nested.tolist() == expected.tolist()


def test_a_member_without_weight_proposes_nothing(oof, references):
    only_a = simulated.inputs({"a": [oof.split.predictions[0].load()]}, references)
    for row in range(len(oof)):
        assert oof.pool([0]).hypotheses(row) == only_a.pool().hypotheses(row)


def test_a_pool_holds_the_best_hypotheses_without_and_with_the_language_model(oof):
    pool = oof.pool([0])
    for row in range(len(oof)):
        for best in (oof.nbest(0).best[row], oof.best_with_lm(0, row)[0]):
            assert best in pool.hypotheses(row)
    with_lm = [oof.best_with_lm(0, row)[0] for row in range(len(oof))]
    assert edit_distances(with_lm, oof.references).mean() < single_distance(oof, 0)


class Broken:
    """A user's blender, which fails as `fault` says."""

    fault = ""

    def fit(self, inputs, seed=0):
        if self.fault == "end":
            raise SystemExit(0)
        method, weights = {
            "other": ("mbr", {"a": 1.0}),
            "stranger": ("broken", {"nobody": 1.0}),
            "heavy": ("broken", {"a": 5.0, "b": 4.0}),
            "nan": ("broken", {"a": np.nan}),
            "large": ("broken", {"a": 0.5, "b": 0.25, "c": 0.25}),
        }.get(self.fault, ("broken", {"a": 1.0}))
        return None if self.fault == "no recipe" else BlendRecipe(method, weights)

    def predict(self, inputs, recipe):
        unknown, blank = [[1, inputs.classes]] * len(inputs), [[1, 0]] * len(inputs)
        texts = ["ab"] * len(inputs)
        return {"short": [[1]], "texts": texts, "nothing": None, "unknown": unknown, "blank": blank}[self.fault]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("end", "SystemExit: 0"),
        ("no recipe", "TypeError: fit returned a NoneType; expected a BlendRecipe"),
        ("other", r"ValueError: fit returned a recipe of 'mbr'; expected BlendRecipe\('broken', ...\)"),
        ("stranger", "ValueError: fit gives weight to 'nobody'; the members are a, b, c"),
        ("heavy", "ValueError: fit returned the weights .*; expected positive ones that sum to 1"),
        ("nan", "ValueError: fit returned the weights .*; expected positive ones that sum to 1"),
        ("large", "ValueError: fit uses members with 20 parameters in all; expected at most 15: choose"),
        ("unknown", r"ValueError: predicts class (\d+); expected 1 to "),
        ("blank", "ValueError: predicts class 0; expected 1 to "),
        ("short", "TypeError: predicts 1 sequences for 40 utterances"),
        ("texts", "ValueError: invalid literal for int"),
        ("nothing", "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_a_user_s_blender_that_fails_is_named(oof, monkeypatch, fault, reason):
    monkeypatch.setattr(BLENDERS, "_entries", dict(BLENDERS._entries))
    monkeypatch.setattr(Broken, "fault", fault)
    BLENDERS.register("broken")(Broken)
    # The third member has the networks of the first, which count once.
    limited = replace(oof, split=replace(oof.split, parameters=(10, 10, 10), max_params=15, same_networks=(0, 1, 0)))
    with pytest.raises(PlugInError, match=rf"blender 'broken' \(.*test_ensemble_blenders.py:\d+\): {reason}"):
        fit_blenders(limited, ["broken"])


def test_fits_of_a_view_have_its_groups_and_the_seed(oof, monkeypatch):
    """The groups decide how certain the choice among blenders is."""
    fitted_on = []

    class Recording:
        def fit(self, inputs, seed=0):
            fitted_on.append((inputs.references, seed))
            return BlendRecipe("recording", {"a": 1.0})

        def predict(self, inputs, recipe):
            return [[]] * len(inputs)

    monkeypatch.setattr(BLENDERS, "_entries", dict(BLENDERS._entries))
    BLENDERS.register("recording")(Recording)
    groups = tuple(f"speaker {row}" for row in range(40))
    view = replace(oof, split=replace(oof.split, groups=groups)).take([5, 2, 9, 0])
    fits = fit_blenders(view, ["recording"], seed=7)
    assert fits["recording"].groups == ("speaker 5", "speaker 2", "speaker 9", "speaker 0")
    own = view.references
    assert fitted_on == [(own, 7), ([own[0], own[2]], 7), ([own[1], own[3]], 7)]
    assert view.take([3, 0]).references == [own[3], own[0]]


def test_best_predicts_as_the_blender_it_chose(oof, recipes):
    """It has the settings of the chosen one, and fits all but itself."""
    assert set(methods_of("best")) == set(BLENDERS.names()) - {"best"} and methods_of("mbr") == ["mbr"]
    nested = {"average": np.full(40, 3), "single": np.full(40, 1)}
    fits = {name: FittedBlender(recipes["single"], values - 1, values) for name, values in nested.items()}
    best = best_recipe(fits)
    assert best.settings["nested"] == {"average": 3.0, "single": 1.0} and best.settings["chosen"] == "single"
    predicted = BLENDERS.get("best")().predict(oof, BlendRecipe(**json.loads(json.dumps(best.to_json()))))
    assert predicted == BLENDERS.get("single")().predict(oof, recipes["single"])


def test_a_recipe_of_a_member_that_is_missing_is_refused(oof):
    with pytest.raises(InputError, match="the recipe needs member gone, which is missing; there are: a, b, c"):
        BlendRecipe("mbr", {"a": 0.5, "gone": 0.5}).array(oof.names)
    assert BlendRecipe("mbr", {"c": 0.75, "a": 0.25}).array(oof.names).tolist() == [0.25, 0, 0.75]


def test_students_are_taught_the_posterior_behind_the_decision(oof):
    settings = {"mean": "geometric", "lm_weight": 0.3, "length_bonus": 0.5}
    for method, sharpness in (("rescore", {}), ("mbr", {"sharpness": 0.2})):
        recipe = BlendRecipe(method, {"a": 0.5, "b": 0.3, "c": 0.2}, settings | sharpness)
        pool, posteriors = BLENDERS.get(method)().posteriors(oof, recipe)
        scores = sharpness.get("sharpness", 1.0) * combined_scores(pool.ctc @ [0.5, 0.3, 0.2], pool, settings)
        for row, decision in enumerate(BLENDERS.get(method)().predict(oof, recipe)):
            span = slice(pool.offsets[row], pool.offsets[row + 1])
            own = scores[span] - np.logaddexp.reduce(scores[span])
            np.testing.assert_allclose(posteriors[span], np.exp(own), atol=1e-9)
            hypotheses = pool.hypotheses(row)
            assert decision == (mbr(hypotheses, own)[0] if sharpness else hypotheses[int(own.argmax())])
