"""Refits: which fold models they belong to, the parameters they count, and blends that predict with them."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import simulated_members as simulated

import ensemble
from ensemble import InputOptions, Rules, open_inputs
from ensemble.blend import BlendOptions, blend, main
from ensemble.blenders.base import BlendRecipe, predict_with
from ensemble.members.eligibility import keep_within_max_params
from ensemble.members.finished import find_members
from ensemble.members.member import Member, group_by_member
from ensemble.members.refits import recipe_difference, with_refits
from ensemble.statistics.member_baselines import _measure
from folds import train
from folds.competition.metric import edit_distances
from folds.store.fold_model import find_fold_models
from registry import InputError

CLASSES = 10


@pytest.fixture
def runs(dataset, tmp_path):
    """Two members of two folds; `a` has a refit that makes fewer errors than its fold models, `b` has none."""
    folder = tmp_path / "runs"
    for name in ("a", "b"):
        for fold in (0, 1):
            add_run(folder, dataset, name, fold)
    add_run(folder, dataset, "a", 0, folds=1, error=0.02)
    return folder


def add_run(folder, dataset, name, fold, error=0.3, **config):
    held = [i for i, speaker in enumerate(dataset.train.groups) if int(speaker) % 2 == fold]
    held = [] if config.get("folds") == 1 else held

    def predictions(split, rows, references):
        return simulated.log_probs(
            references or [[1]],
            error=error,
            seed=fold + ord(name[0]) + 7 * config.get("folds", 2),
            classes=dataset.alphabet.classes,
            alphabet=dataset.alphabet.hash,
            ids=[split.ids[row] for row in rows] or ["none"],
        ).take(range(len(rows)))

    references_of_test = simulated.references(6, length=6, seed=3, classes=CLASSES)
    splits = {
        "oof": predictions(dataset.train, held, [dataset.train.labels(i).tolist() for i in held]),
        "dev": predictions(dataset.dev, range(6), [dataset.dev.labels(i).tolist() for i in range(6)]),
        "test": predictions(dataset.test, range(6), references_of_test),
    }
    return simulated.write_run(folder, name, fold, splits, **config)


def members_of(runs) -> list[Member]:
    available = find_fold_models(runs)
    return with_refits(group_by_member([model for model in available if model.folds > 1]), available)[0]


def opened(runs, dataset, rules=None, **options):
    return open_inputs(members_of(runs), dataset, InputOptions(nbest=20, pool=40, lm_order=2, **options), rules)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["blend", *map(str, arguments)])
    main()


def test_a_refit_belongs_to_the_fold_models_of_its_name_and_seed(runs, dataset):
    add_run(runs, dataset, "a", 0, seed=1)
    add_run(runs, dataset, "a", 0, seed=1, folds=1)
    members = members_of(runs)
    assert [member.describe() for member in members] == [
        "a (folds 0, 1 of 2; refit)",
        "a.seed1 (fold 0 of 2; refit)",
        "b (folds 0, 1 of 2)",
    ]
    assert [member.refit.name for member in members if member.refit] == ["a.all", "a.seed1.all"]
    assert members[0].parameters == 3000 and members[0].using("folds").parameters == 2000
    assert members[0].using("refits").networks == (members[0].refit,)
    assert members[2].using("refits") is members[2]


def test_a_refit_of_no_member_and_one_trained_on_dev_are_not_used(runs, dataset):
    add_run(runs, dataset, "other", 0, folds=1)
    available = find_fold_models(runs)
    members, notes = with_refits(group_by_member([model for model in available if model.folds > 1]), available)
    assert [member.name for member in members] == ["a", "b"]
    (note,) = notes
    assert note.startswith("left out: other.all was trained on all utterances, and other, whose out-of-fold")
    refits = [fold_model for fold_model in available if fold_model.name == "a.all"]
    on_dev = [simulated.edit_config(refit, with_dev=True) for refit in refits]
    assert with_refits(members, on_dev)[1] == [] and not on_dev[0].is_refit


@pytest.mark.parametrize(
    ("refit", "message"),
    [
        ({"options": {"recipe": {"epochs": 30}}}, "epochs 30, not 40"),
        ({"options": {"recipe": {"augment": {"time_every": 75}}}}, "time_every 75, not 120"),
        ({"model_config": {"hidden": 512}}, "hidden 512, not 176"),
        ({"data": {"hash": "other"}}, "data other, not this"),
        ({"model": "c"}, "model c, not a"),
        ({"options": {"restart_from": "runs"}}, "restart_from given, not not given"),
    ],
)
def test_a_refit_of_another_recipe_is_left_out_with_one_line(runs, refit, message):
    """Options that config.json does not have are the defaults."""
    same = {"model_config": {"hidden": 176}, "data": {"hash": "this"}, "options": {"recipe": {}}}
    available = [simulated.edit_config(model, **same) for model in find_fold_models(runs)]
    (network,) = (model for model in available if model.name == "a.all")
    fold_models = tuple(model for model in available if model.name == "a")
    assert recipe_difference(network, fold_models) is None
    changed = simulated.edit_config(network, **refit)
    (member,), notes = with_refits([Member("a", fold_models)], [changed])
    assert member.refit is None
    assert notes == [f"left out: a.all was not trained like the fold models of a: {message}"]


def test_trained_runs_of_one_recipe_belong_together(tiny, tmp_path, monkeypatch):
    """As `folds.train` records them, seeds and names included; a refit that continues a fold model does too."""
    quick = ["--model", "lstm_small", "--hidden", "8", "--channels", "8", "8", "--layers", "1", "--threads", "1"]
    quick += ["--data", str(tiny), "--batch-frames", "400", "--name", "tiny"]
    for runs, options in (
        ("runs", ["--folds", "2", "--epochs", "1"]),
        ("continued", ["--folds", "1", "--epochs", "2", "--restart-from", str(tmp_path / "runs")]),
        ("runs", ["--folds", "1", "--epochs", "1"]),
        ("longer", ["--folds", "1", "--epochs", "2"]),
    ):
        monkeypatch.setattr(sys, "argv", ["train", *quick, *options, "--runs", str(tmp_path / runs)])
        train.main()
    (member,) = members_of(tmp_path / "runs")
    assert (member.name, member.refit.name, member.refit.model) == ("tiny", "tiny.all", "lstm_small")
    notes = with_refits([member.using("folds")], find_fold_models(tmp_path / "longer"))[1]
    assert notes == ["left out: tiny.all was not trained like the fold models of tiny: epochs 2, not 1"]
    (refit,) = find_fold_models(tmp_path / "continued")
    assert with_refits([member.using("folds")], [refit]) == ([dataclasses.replace(member, refit=refit)], [])
    refit = simulated.edit_config(refit, options=refit.recorded["options"] | {"teacher": "submission.csv.json"})
    assert recipe_difference(refit, member.fold_models) == "teacher given, not not given"


def test_batches_that_were_halved_for_lack_of_memory_are_of_the_same_recipe(runs):
    available = find_fold_models(runs)
    refit, fold_model = (next(m for m in available if m.name == name) for name in ("a.all", "a"))
    fold_model = simulated.edit_config(fold_model, options={"recipe": {"batch_frames": 64000, "accumulate": 1}})
    refit = simulated.edit_config(refit, options={"recipe": {"batch_frames": 32000, "accumulate": 2}})
    assert recipe_difference(refit, [fold_model]) == "accumulate 2, not 1"
    refit = simulated.edit_config(refit, hardware={"halved": True})
    assert recipe_difference(refit, [fold_model]) is None


def test_the_members_of_a_runs_folder_have_their_refits(runs, dataset):
    """As README's Python example gets them."""
    add_run(runs, dataset, "other", 0, folds=1)
    members, left_out = ensemble.members_of(find_fold_models(runs))
    assert [member.describe() for member in members] == ["a (folds 0, 1 of 2; refit)", "b (folds 0, 1 of 2)"]
    assert members[0].using("refits").describe() == "a (refit)"
    assert [note.split(" was trained")[0] for note in left_out] == ["left out: other.all"]
    assert len(open_inputs(members, dataset).oof.split.ids) == len(dataset.train)


def test_epochs_do_not_matter_where_minutes_end_the_run(runs):
    available = find_fold_models(runs)
    refit, fold_model = (next(m for m in available if m.name == name) for name in ("a.all", "a"))
    refit = simulated.edit_config(refit, options={"recipe": {"minutes": 5.0, "epochs": 10}})
    recipe = {"minutes": 5.0, "keep": 4, "precision": "bf16"}
    fold_model = simulated.edit_config(fold_model, options={"recipe": recipe})
    assert recipe_difference(refit, [fold_model]) is None


def test_the_limit_on_parameters_keeps_refits_first(runs):
    a, b = members_of(runs)
    kept = keep_within_max_params([a, b], {"a": 0.4, "b": 0.6}, 2000)
    assert {member.name: member.networks for member in kept} == {"a": (a.refit,), "b": (b.fold_models[0],)}
    kept = keep_within_max_params([a, b], {"a": 1.0}, 2999)
    assert kept[0].networks == (a.fold_models[0], a.refit)


def test_dev_is_predicted_by_folds_refits_and_both(runs, dataset):
    inputs = opened(runs, dataset)
    assert inputs.choices == ("folds", "refits", "both") and inputs.networks == "both"
    assert len(inputs.dev.prediction_indices([0])) == 3 and len(inputs.oof.prediction_indices([0])) == 1
    result = blend(inputs, method="rescore")
    assert set(result.dev_by_networks) == {"folds", "refits", "both"} and result.dev is result.dev_by_networks["both"]
    used = {member.name: member.networks for member in result.members}
    assert used == {member.name: member.networks for member in inputs.members if member.name in used}
    (a, _), recipe = inputs.members, BlendRecipe("single", {"a": 1.0}, {"lm_weight": 0.0, "length_bonus": 0.0})
    alone = predict_with(inputs.dev, recipe, [a.using("refits")])
    expected = inputs.dev.nbest(2).best
    assert inputs.dev.split.predictions[2].network is a.refit and alone == expected
    assert (
        edit_distances(alone, inputs.dev.references).mean()
        < edit_distances(predict_with(inputs.dev, recipe, [a.using("folds")]), inputs.dev.references).mean()
    )


def test_a_member_is_measured_with_its_fold_models_and_with_its_refit(runs, dataset):
    inputs = opened(runs, dataset)
    measured = _measure(inputs, 0, {"lm_weight": 0.3, "length_bonus": 0.5})
    *of_folds, of_refit = (edit_distances(inputs.dev.nbest(index).best, inputs.dev.references) for index in range(3))
    assert measured.dev.tolist() == np.mean(of_folds, axis=0).tolist()
    assert measured.refit.tolist() == of_refit.tolist() != measured.dev.tolist()
    for distances, networks in ((measured.dev_lm, "folds"), (measured.refit_lm, "refits")):
        predicted = predict_with(inputs.dev, measured.recipe, [inputs.members[0].using(networks)])
        assert distances.tolist() == edit_distances(predicted, inputs.dev.references).tolist()


def test_the_oracle_on_dev_is_that_of_the_networks_that_predict_test(runs, dataset):
    shutil.rmtree(runs / "a.all")
    add_run(runs, dataset, "a", 0, folds=1, error=0.9)
    inputs = open_inputs(members_of(runs)[:1], dataset, InputOptions(nbest=4, pool=4, lm_order=2, networks="refits"))
    expected = inputs.dev.restricted_to([2]).pool().oracle_distances.mean()
    assert blend(inputs, method="rescore").oracle.dev == expected > inputs.dev.pool().oracle_distances.mean()


def test_weights_and_settings_do_not_depend_on_refits(runs, dataset):
    recipes = [blend(opened(runs, dataset, networks=networks), "mbr").recipe for networks in ("folds", "refits")]
    assert recipes[0] == recipes[1]


def test_frames_are_averaged_over_the_chosen_networks(runs, dataset):
    inputs = opened(runs, dataset, networks="refits", fold_mean="frames")
    assert inputs.choices == ("refits",)
    refit = inputs.members[0].refit
    values = inputs.dev.load(0).values.astype(np.float32)
    np.testing.assert_allclose(values, np.maximum(refit.load("dev").values.astype(np.float32), np.log(1e-9)), atol=0.02)
    assert inputs.oof.split.parameters == (1000, 2000)
    assert {member.name: len(member.networks) for member in inputs.keep({"a": 0.5, "b": 0.5}, "refits")} == {
        "a": 1,
        "b": 2,
    }


def test_refits_without_any_are_refused(runs, dataset):
    members = [member.using("folds") for member in members_of(runs)]
    with pytest.raises(InputError, match="--networks refits: no member has a refit: train one with .* --folds 1"):
        open_inputs(members, dataset, InputOptions(networks="refits"))
    for fold_mean in ("sequence", "frames"):
        inputs = open_inputs(members, dataset, InputOptions(nbest=5, lm_order=2, fold_mean=fold_mean))
        assert inputs.choices == ("folds",) and inputs.networks == "folds"


def test_the_command_shows_each_choice_and_counts_the_networks(tiny, runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.csv"
    small = ["--nbest", 20, "--pool", 40, "--lm-order", 2, "--method", "rescore"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *small, "--members", "a", "--networks", "refits")
    printed = capsys.readouterr().out
    for expected in ("dev, fold models", "dev, refits", "dev, fold models and refits", "predicted by refits"):
        assert expected in " ".join(printed.split())
    description = json.loads((tmp_path / "s.csv.json").read_text())
    assert description["parameters"] == 1000
    assert description["recipe"]["members"] == {"a": [str(runs / "a.all" / "fold0")]}
    assert set(description["dev_by_networks"]) == {"folds", "refits", "both"}
    assert description["dev"] == description["dev_by_networks"]["refits"]
    assert len(list(csv.reader(out.open()))) == 7


def test_a_refit_that_is_larger_leaves_enough_for_the_other_members(runs, dataset):
    """A layer for each training group, for example, makes it so."""
    add_run(runs, dataset, "large", 0, parameters=900)
    add_run(runs, dataset, "large", 0, folds=1, parameters=1100)
    a, _, large = members_of(runs)
    weights = {"a": 0.4, "large": 0.6}
    kept = keep_within_max_params([a, large], weights, 1950)
    assert {member.name: member.networks for member in kept} == {"a": (a.refit,), "large": large.fold_models}
    kept = keep_within_max_params([a, large], weights, 2100)
    assert {member.name: member.networks for member in kept} == {"a": (a.refit,), "large": (large.refit,)}
    assert opened(runs, dataset, rules=Rules(2100)).choices == ("folds", "both")
    inputs = opened(runs, dataset, rules=Rules(2100), networks="refits")
    assert inputs.choices == ("folds", "refits", "both") and inputs.oof.split.parameters == (1000, 1000, 1100)


def test_fold_models_that_are_larger_than_the_limit_do_not_predict_alone(runs, dataset):
    """Adapted ones have more speakers' layers than the refit: the member is allowed by its refit."""
    for fold in (0, 1):
        add_run(runs, dataset, "large", fold, parameters=1100)
    add_run(runs, dataset, "large", 0, folds=1, parameters=1000)
    for networks, choices in (("both", ("refits", "both")), ("refits", ("refits", "both"))):
        inputs = opened(runs, dataset, rules=Rules(3000), networks=networks)
        assert inputs.choices == choices and inputs.networks == networks
        assert inputs.keep({"large": 1.0}, inputs.networks)[0].refit
    everything = opened(runs, dataset, rules=Rules(5000), networks="folds")
    assert everything.networks == "folds" and everything.oof.split.parameters == (1000, 1000, 1100)
    assert len(everything.keep({"large": 1.0}, "folds")[0].fold_models) == 2


def test_a_member_with_two_refits_is_refused(runs, dataset, tmp_path):
    add_run(tmp_path / "more", dataset, "a", 0, folds=1)
    with pytest.raises(InputError, match=r"member a: has two refits, .*a\.all/fold0 and .*a\.all/fold0: leave"):
        find_members(BlendOptions(runs=(runs, tmp_path / "more")), ["*"])


def test_members_come_from_several_stores(runs, dataset, tmp_path, capsys):
    add_run(tmp_path / "more", dataset, "c", 0)
    add_run(tmp_path / "more", dataset, "b", 0, folds=1)
    members = find_members(BlendOptions(runs=(runs, tmp_path / "more")), ["*"])
    assert [(member.name, bool(member.refit)) for member in members] == [("a", True), ("b", True), ("c", False)]
    with pytest.raises(InputError, match="no such runs folder"):
        find_members(BlendOptions(runs=(runs, tmp_path / "none")), ["*"])


def test_rules_leave_out_a_member_that_only_fits_without_its_refit(runs, dataset):
    inputs = opened(runs, dataset, rules=Rules(2500), fold_mean="frames")
    assert [member.name for member in inputs.members] == ["b"]
    assert [member.name for member in opened(runs, dataset, rules=Rules(2500)).members] == ["a", "b"]
