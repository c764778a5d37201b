"""What a blend predicts with, prints and records: the networks and options chosen, and each figure by its name."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from test_ensemble_refits import add_run, members_of, run, runs

from ensemble import InputOptions, Rules, open_inputs
from ensemble.blend import BlendResult, blend, dev_results, print_blenders, recorded
from ensemble.blenders.base import BLENDERS, BlendRecipe, restricted
from ensemble.blenders.best import FittedBlender
from ensemble.blenders.nbest_out import most_probable, write_nbest
from ensemble.blenders.rescore import Rescore
from ensemble.hypotheses.fusion import FusionSettings
from ensemble.hypotheses.recorded_options import as_recorded, recorded_options
from ensemble.members.sidecar import Sidecar
from ensemble.statistics.member_baselines import MemberBaseline
from ensemble.statistics.oracles import PoolOracle
from folds.competition.metric import edit_distances
from folds.store.nbest_file import read_nbest_file

__all__ = ["runs"]  # a fixture

RECIPE = BlendRecipe("mbr", {"a": 1.0})


def baseline(dev) -> MemberBaseline:
    """A member with these distances without a language model, and larger ones with it."""
    dev = np.array(dev, float)
    return MemberBaseline("a", oof=dev, dev=dev, dev_mean=dev, dev_lm=dev + 1, recipe=RECIPE, hypotheses=[])


def result_of(nested, networks, dev, oracle=None) -> BlendResult:
    """Blenders with these nested distances, and half of them as fitted; only `average` does not weigh networks."""
    fitted = {
        name: FittedBlender(RECIPE, np.array(values) / 2, np.array(values), weighs_networks=name != "average")
        for name, values in nested.items()
    }
    return BlendResult(RECIPE, [], fitted, networks, dev, [], [], oracle)


def test_figures_are_recorded_by_their_names():
    dev = {"folds": {"mbr": np.array([5.0, 7.0])}, "refits": {"mbr": np.array([1.0, 3.0])}}
    result = result_of({"mbr": [2.0, 3.0]}, "refits", dev, PoolOracle("mbr", 0.5, 0.25))
    assert dev_results(result, [baseline([3, 5])], None) == {
        "oof": 1.25,
        "nested": 2.5,
        "dev": 2.0,
        "dev_by_networks": {"folds": 6.0, "refits": 2.0},
        "oracle": {"method": "mbr", "oof": 0.5, "dev": 0.25},
        "dev_minus_best_member": {"member": "a", "mean": -2.0, "low": -2.0, "high": -2.0},
    }


def test_what_is_chosen_and_what_it_gains_is_printed(capsys):
    def printed(nested, networks, mean):
        dev = {networks: {name: np.full(10, mean) for name in nested}}
        print_blenders(result_of(nested, networks, dev), [baseline([3.0] * 10)], None, "utterances")
        return capsys.readouterr().out

    close = printed({"average": [5.0] * 10, "mbr": [6.0] + [5.0] * 9}, "refits", 4.0)
    assert "\nchosen by the nested out-of-fold distance: mbr, predicted by refits\n(average is lower, but not " in close
    assert "on dev: 4.000, significantly worse than a at 95 %: +1.000" in close and "gains nothing" not in close
    alone = printed({"mbr": [5.0] * 10}, "folds", 4.0)
    assert "\nfitted: mbr, predicted by fold models\non dev" in alone
    assert "so the blend gains nothing: leave out --method" in alone
    assert "gains nothing" not in printed({"mbr": [5.0] * 10}, "folds", 2.0)


def test_the_rules_and_each_used_member_s_search_are_recorded():
    class Fixed:
        def settings(self, member: int, held_out: int | None = None) -> FusionSettings:
            return FusionSettings(0.1 * member, 0.2 * member, None, 0.3 * member)

        def label_bonus(self, member: int) -> np.ndarray:
            return np.array([0.0, float(member)])

    inputs = SimpleNamespace(fusion=Fixed(), test=SimpleNamespace(names=("a", "b", "c")), rules=Rules(7, ("cpu",)))
    found = recorded(inputs, SimpleNamespace(members=[SimpleNamespace(name=name) for name in "bc"]))
    fusion = {
        name: {
            "lm_weight": 0.1 * member,
            "length_bonus": 0.2 * member,
            "prior_weight": 0.3 * member,
            "label_bonus": [0.0, member],
        }
        for name, member in (("b", 1), ("c", 2))
    }
    assert json.loads(json.dumps(found)) == {"rules": {"max_params": 7, "forbid": ["cpu"]}, "fusion": fusion}


def test_recorded_options_are_read_from_strings():
    options = {"fit_limit": "None", "nbest": "7", "seed": "3", "fold_mean": "frames", "out": "x.csv"}
    content = {"recipe": {"method": "mbr"}, "parameters": 1, "tags": [], "options": options}
    sidecar = msgspec.convert(content, Sidecar)
    assert recorded_options(sidecar, "x") == InputOptions(fit_limit=None, nbest=7, seed=3, fold_mean="frames")
    expected = InputOptions(fit_limit=None, nbest=9, fold_mean="frames")
    assert as_recorded(InputOptions(nbest=9), sidecar, "x", given=["seed"]) == expected


def test_dev_and_test_are_predicted_by_the_chosen_networks(runs, dataset, tmp_path):
    """Also what students are trained on: here by the refit alone, which is poor."""
    shutil.rmtree(runs / "a.all")
    add_run(runs, dataset, "a", 0, folds=1, error=0.9)
    inputs = open_inputs(members_of(runs)[:1], dataset, InputOptions(nbest=4, pool=4, lm_order=2, networks="refits"))
    result = blend(inputs, "rescore")
    blender, predictions = Rescore(), {"folds": [0, 1], "refits": [2], "both": [0, 1, 2]}
    on_dev, on_test = (
        {name: blender.predict(split.restricted_to(own), result.recipe) for name, own in predictions.items()}
        for split in (inputs.dev, inputs.test)
    )
    for networks, hypotheses in on_dev.items():
        expected = edit_distances(hypotheses, inputs.dev.references)
        assert result.dev_by_networks[networks]["rescore"].tolist() == expected.tolist()
    assert result.dev_hypotheses == on_dev["refits"] not in (on_dev["folds"], on_dev["both"])
    assert result.hypotheses == on_test["refits"] not in (on_test["folds"], on_test["both"])
    write_nbest(tmp_path / "nbest", tmp_path / "s.csv", inputs, result.fitted, dataset)
    teacher = read_nbest_file(tmp_path / "nbest")
    for split, written in ((inputs.dev, teacher.dev), (inputs.test, teacher.test)):
        expected = most_probable(split.split.ids, *blender.posteriors(split.restricted_to([2]), result.recipe))
        assert written.tokens.values.tolist() == expected.tokens.values.tolist()
        np.testing.assert_array_equal(written.posteriors, expected.posteriors)


def test_weights_of_the_members_that_the_limit_keeps_sum_to_one(runs, dataset):
    inputs = open_inputs(members_of(runs), dataset)
    kept = [inputs.members[1].using("folds")]
    view, recipe = restricted(inputs.dev, BlendRecipe("mbr", {"a": 0.75, "b": 0.25}, {"mean": "geometric"}), kept)
    assert recipe == BlendRecipe("mbr", {"b": 1.0}, {"mean": "geometric"})
    assert view.prediction_indices() == inputs.dev.prediction_indices([1]) == [3, 4]


def test_options_reach_the_inputs_and_the_blender(tiny, runs, dataset, tmp_path, monkeypatch):
    inputs = open_inputs(members_of(runs), dataset, InputOptions(nbest=8, pool=9, lm_order=2))
    for split in (inputs.oof, inputs.dev, inputs.test):
        assert (split.nbest_size, split.pool_size, split.split.language_models[0].order) == (8, 9, 2)
        assert split.fusion is inputs.fusion
    rows = [dataset.train.row_of[utterance] for utterance in inputs.oof.split.ids]
    assert inputs.oof.split.groups == tuple(dataset.train.groups[row] for row in rows)
    seeds = []

    class Seeded:
        def fit(self, inputs, seed=0):
            seeds.append(seed)
            return BlendRecipe("seeded", {"a": 1.0})

        def predict(self, inputs, recipe):
            return [[]] * len(inputs)

    monkeypatch.setattr(BLENDERS, "_entries", dict(BLENDERS._entries))
    BLENDERS.register("seeded")(Seeded)
    blend(inputs, "seeded", seed=5)
    assert seeds == [5, 5, 5]  # of the whole, and without each of two folds

    def stop(inputs, method, seed):
        raise KeyboardInterrupt(method, seed, inputs.options.fit_limit)

    monkeypatch.setattr("ensemble.blend.measure_members", lambda inputs: [])
    monkeypatch.setattr("ensemble.blend.member_table", lambda *arguments: pd.DataFrame())
    monkeypatch.setattr("ensemble.blend.blend", stop)
    fixed = ["--data", tiny, "--runs", runs, "--out", tmp_path / "s.csv"]
    with pytest.raises(KeyboardInterrupt, match=r"\('seeded', 6, 30\)"):
        run(monkeypatch, *fixed, "--method", "seeded", "--seed", 6, "--fit-limit", 30)
