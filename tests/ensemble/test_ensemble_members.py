"""Members from fold models: how they are grouped, checked, averaged and refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.members.eligibility import (
    count_networks,
    filter_by_rules,
    first_with_networks,
    keep_within_max_params,
    notes_on_twins,
    total_parameters,
)
from ensemble.members.member import group_by_member
from ensemble.members.out_of_fold import common_oof
from ensemble.members.predictions import load_checked, mean_predictions, network_predictions, oof_predictions
from ensemble.members.stores import StoresOptions
from folds.competition.base import Rules
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import write_log_probs
from folds.store.run_folder import RunFolder
from registry import InputError
from registry.models import parse_count

IDS = [f"{i}-0-0" for i in range(8)]
REFERENCES = simulated.references(8, length=6)


def predictions(rows, seed=1, alphabet="simulated"):
    return simulated.log_probs([REFERENCES[r] for r in rows], seed=seed, alphabet=alphabet, ids=[IDS[r] for r in rows])


def add(runs, name, fold, held=None, **config):
    held = range(fold, 8, 2) if held is None else held
    whole = predictions(range(8), seed=fold)
    return simulated.write_run(runs, name, fold, {"oof": predictions(held), "dev": whole, "test": whole}, **config)


def test_seeds_are_members_of_their_own_and_folds_are_not(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1)
    add(tmp_path, "gru", 0, seed=1)
    members = group_by_member(find_fold_models(tmp_path))
    assert [member.describe() for member in members] == ["gru (folds 0, 1 of 2)", "gru.seed1 (fold 0 of 2)"]
    assert members[0].parameters == 2000


def test_copies_are_no_runs(tmp_path):
    run = add(tmp_path, "gru", 0)
    shutil.copytree(run, run.with_name("fold0.bak"))
    shutil.copytree(run, run.with_name("fold0 (1)"))
    assert [fold_model.path for fold_model in find_fold_models(tmp_path)] == [run]


def test_patterns_choose_members_and_name_what_they_miss(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 0)
    fold_models = find_fold_models(tmp_path)
    assert [member.name for member in group_by_member(fold_models, ["l*"])] == ["lstm"]
    with pytest.raises(InputError, match="--members conformer.*gru, lstm"):
        group_by_member(fold_models, ["conformer"])


def test_a_member_in_two_stores_is_refused_unless_it_is_left_out(tmp_path):
    add(tmp_path / "one", "gru", 0)
    add(tmp_path / "two", "gru", 1)
    add(tmp_path / "two", "lstm", 0)
    options = StoresOptions(runs=(tmp_path / "one", tmp_path / "two"))
    fold_models = options.find_fold_models()
    with pytest.raises(InputError, match="member gru: is in .*one and in .*two: rename one folder"):
        group_by_member(fold_models)
    assert [member.name for member in group_by_member(fold_models, ["lstm"])] == ["lstm"]
    again = StoresOptions(runs=(tmp_path / "two", tmp_path / "two")).find_fold_models()
    assert [(model.name, model.fold) for model in again] == [("gru", 1), ("lstm", 0)]


def test_oof_is_the_union_of_a_members_folds_and_the_intersection_over_members(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1)
    add(tmp_path, "lstm", 1)
    members = group_by_member(find_fold_models(tmp_path))
    ids, folds, notes = common_oof(members[:1], IDS)
    assert ids == IDS and folds.tolist() == [0, 1] * 4
    ids, folds, notes = common_oof(members, IDS)
    assert ids == IDS[1::2] and set(folds) == {1}
    assert "4 of 8 training utterances" in notes[0] and "gru (folds 0, 1 of 2) has 8" in notes[1]
    assert notes[2:] == [
        "  only 4 because of lstm (fold 1 of 2); the other members have 8 in common: "
        "train its missing folds, or leave it out with --members"
    ]
    log_probs = oof_predictions(members[0], 0, IDS, "simulated").load()
    assert log_probs.ids == tuple(IDS)
    np.testing.assert_array_equal(log_probs[3], predictions([1, 3, 5, 7])[1])


def test_members_without_a_common_utterance_are_refused(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 1)
    expected = "^no utterance was held out by every member, .* .gru: fold 0 of 2; lstm: fold 1 of 2.: train the"
    with pytest.raises(InputError, match=expected):
        common_oof(group_by_member(find_fold_models(tmp_path)), IDS)


def test_one_common_utterance_is_too_few(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 0, held=[0], folds=3)
    with pytest.raises(InputError, match="^only one utterance was held out by every member, but fitting weights"):
        common_oof(group_by_member(find_fold_models(tmp_path)), IDS)


def test_an_utterance_held_out_twice_is_refused(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1, held=[0, 1])
    with pytest.raises(InputError, match="both hold out 0-0-0"):
        common_oof(group_by_member(find_fold_models(tmp_path)), IDS)


def test_utterances_of_other_data_are_refused(tmp_path):
    add(tmp_path, "gru", 0)
    with pytest.raises(InputError, match="gru.*4 out-of-fold utterances are not in the data.*0-0-0"):
        common_oof(group_by_member(find_fold_models(tmp_path)), ["somewhere-else"])


def test_members_whose_folds_were_assigned_differently_are_refused(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1)
    add(tmp_path, "lstm", 0, held=[0, 2, 4, 5], fold_assignment=2)
    with pytest.raises(InputError) as error:
        common_oof(group_by_member(find_fold_models(tmp_path)), IDS)
    assert "members gru and lstm: their 2 folds hold out different utterances, for example 5-0-0" in str(error.value)
    assert "(fold assignment 1 and 2)" in str(error.value) and "\n" not in str(error.value)


def test_different_folds_that_hold_out_one_utterance_are_refused(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 1, held=[1, 3, 4])
    with pytest.raises(InputError, match="members gru and lstm.*for example 4-0-0.*assignment 1 and 1.*--members"):
        common_oof(group_by_member(find_fold_models(tmp_path)), IDS)


def test_equal_folds_of_another_assignment_and_other_numbers_of_folds_are_allowed(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 0, fold_assignment=2)
    add(tmp_path, "pblstm", 0, held=[0, 3, 6], folds=3)
    ids, _, notes = common_oof(group_by_member(find_fold_models(tmp_path)), IDS)
    assert ids == [IDS[0], IDS[6]] and notes[-1] == "  members differ in their number of folds (2, 3)"


def test_folds_are_those_of_the_member_with_the_fewest(tmp_path):
    for fold in range(4):
        add(tmp_path, "gru", fold, held=[2 * fold, 2 * fold + 1], folds=4)
    for fold in range(2):
        add(tmp_path, "lstm", fold, held=range(4 * fold, 4 * fold + 4))
    assert common_oof(group_by_member(find_fold_models(tmp_path)), IDS).folds.tolist() == [0] * 4 + [1] * 4


def test_missing_prediction_is_an_error_that_names_it(tmp_path):
    add(tmp_path, "gru", 0)
    (member,) = group_by_member(find_fold_models(tmp_path))
    (of_fold,) = network_predictions(member, 0, "dev", [*IDS, "9-0-0"], "simulated")
    with pytest.raises(InputError, match="member gru, fold 0.*1 of 9 utterances have no prediction.*9-0-0"):
        of_fold.load()
    (of_fold,) = network_predictions(member, 0, "dev", IDS[:7], "simulated")
    with pytest.raises(InputError, match="predicts 1 utterances that the data does not have.*7-0-0"):
        of_fold.load()


def test_predictions_are_in_the_order_of_the_data(tmp_path):
    add(tmp_path, "gru.delay2", 0, delay={"frames": 2, "of": "x"})
    (member,) = group_by_member(find_fold_models(tmp_path))
    (of_fold,) = network_predictions(member, 0, "dev", IDS[::-1], "simulated")
    loaded = of_fold.load()
    assert loaded.ids == tuple(IDS[::-1])
    np.testing.assert_array_equal(loaded[1], predictions(range(8), seed=0)[6])
    out_of_fold = oof_predictions(member, 0, IDS[::2], "simulated")
    assert of_fold.delay == out_of_fold.delay == mean_predictions(member, 0, "dev", IDS, "simulated").delay == 2


def test_another_alphabet_is_refused(tmp_path):
    add(tmp_path, "gru", 0)
    (fold_model,) = find_fold_models(tmp_path)
    with pytest.raises(InputError, match="member gru, fold 0.*has alphabet simulated, but the data has other"):
        load_checked(fold_model, "dev", "other")


def test_another_blank_is_refused(tmp_path):
    add(tmp_path, "gru", 0)
    (fold_model,) = find_fold_models(tmp_path)
    write_log_probs(fold_model.folder.predictions("dev"), replace(fold_model.load("dev"), blank=3))
    with pytest.raises(InputError, match="member gru, fold 0.*, dev: the blank is class 3; expected 0: train it again"):
        load_checked(fold_model, "dev", "simulated")


def test_another_stride_than_the_configs_is_refused(tmp_path):
    add(tmp_path, "gru", 0, stride=2)
    (fold_model,) = find_fold_models(tmp_path)
    with pytest.raises(InputError, match="member gru, fold 0.*, dev: has stride 4, but config.json says 2"):
        load_checked(fold_model, "dev", "simulated")


def test_other_numbers_of_frames_than_the_features_make_are_refused(tmp_path):
    add(tmp_path, "gru", 0, data={"hash": "0" * 16})
    (fold_model,) = find_fold_models(tmp_path)
    made = fold_model.load("dev").lengths  # at stride 4
    for frames in (4 * made, 4 * made - 3):
        load_checked(fold_model, "dev", "simulated", dict(zip(IDS, frames.tolist(), strict=True)))
    for changed, count in ((1, 4 * made[3] + 1), (-1, 4 * made[3] - 4)):
        frames = dict(zip(IDS, (4 * made).tolist(), strict=True)) | {IDS[3]: int(count)}
        found = f"predicts {made[3]} frames for 3-0-0; its {count} frames of features give {made[3] + changed} at"
        with pytest.raises(InputError, match=f"member gru, fold 0.*, dev: {found} stride 4: the features have changed"):
            load_checked(fold_model, "dev", "simulated", frames)


def test_counts_are_read_and_bad_ones_refused():
    assert [parse_count(t) for t in ("20M", "950k", "1.5M", "12")] == [20_000_000, 950_000, 1_500_000, 12]
    with pytest.raises(InputError, match="--max-params lots"):
        parse_count("lots")
    with pytest.raises(InputError, match="up to 1000G"):
        parse_count("9" * 400 + "M")


def test_rules_leave_members_out_with_a_note(tmp_path):
    add(tmp_path, "conformer", 0, tags=["attention"])
    add(tmp_path, "gru", 0)
    add(tmp_path, "huge", 0, parameters=5000)
    members = group_by_member(find_fold_models(tmp_path))
    kept, notes = filter_by_rules(members, Rules(2000, ("attention",)))
    assert [member.name for member in kept] == ["gru"]
    assert "conformer (tag attention)" in notes[0] and "huge (5,000 parameters" in notes[1]
    assert [member.name for member in filter_by_rules(members, Rules(1000))[0]] == ["conformer", "gru"]
    with pytest.raises(InputError, match="no member meets the rules"):
        filter_by_rules(members, Rules(10))


def test_fold_models_that_go_together_are_admitted_together(tmp_path):
    for name, folds in (("gru", 2), ("lstm", 1)):
        for fold in range(folds):
            add(tmp_path, name, fold)
    members = group_by_member(find_fold_models(tmp_path))
    assert [member.name for member in filter_by_rules(members, Rules(1500))[0]] == ["gru", "lstm"]
    kept, notes = filter_by_rules(members, Rules(1500), together=True)
    assert [member.name for member in kept] == ["lstm"] and "gru (2,000 parameters in all its networks)" in notes[0]


def test_budget_buys_members_first_and_folds_with_what_is_left(tmp_path):
    for name in ("gru", "lstm"):
        add(tmp_path, name, 0)
        add(tmp_path, name, 1)
    members = group_by_member(find_fold_models(tmp_path))
    kept = keep_within_max_params(members, {"gru": 0.4, "lstm": 0.6}, 3000)
    assert {member.name: member.folds for member in kept} == {"gru": (0,), "lstm": (0, 1)}
    assert total_parameters(kept) == 3000
    assert total_parameters(keep_within_max_params(members, {"gru": 0.4, "lstm": 0.6}, None)) == 4000
    assert [member.name for member in keep_within_max_params(members, {"lstm": 1.0}, None)] == ["lstm"]


def with_twins(runs) -> list:
    """`gru` of two folds, its delayed twin, and `lstm` of one; each network has 1,000 parameters."""
    for fold in (0, 1):
        weights = RunFolder(add(runs, "gru", fold)).weights
        weights.parent.mkdir()
        weights.write_bytes(f"gru {fold}".encode())
        of = RunFolder(runs / "gru" / f"fold{fold}").weights_hash
        add(runs, "gru.delay2", fold, delay={"frames": 2, "of": of})
    add(runs, "lstm", 0)
    return group_by_member(find_fold_models(runs))


def test_a_network_and_its_delayed_twin_count_once(tmp_path):
    members = with_twins(tmp_path)
    assert [member.name for member in members] == ["gru", "gru.delay2", "lstm"]
    assert total_parameters(members) == 3000 and total_parameters(members[1:]) == 3000
    assert count_networks(members) == count_networks(members[1:]) == 3
    assert first_with_networks(members) == (0, 0, 2) and first_with_networks(members[1:]) == (0, 1)
    weights = {"gru": 0.2, "gru.delay2": 0.5, "lstm": 0.3}
    kept = {member.name: member.folds for member in keep_within_max_params(members, weights, 2000)}
    assert kept == {"gru": (0,), "gru.delay2": (0,), "lstm": (0,)}
    kept = keep_within_max_params(members, weights, 3000)
    assert {member.name: member.folds for member in kept} == {"gru": (0, 1), "gru.delay2": (0, 1), "lstm": (0,)}
    assert total_parameters(kept) == 3000


def test_a_twin_whose_network_was_trained_again_counts_beside_it(tmp_path):
    members = with_twins(tmp_path)
    for fold in (0, 1):
        (tmp_path / "gru" / f"fold{fold}" / "checkpoint" / "weights.safetensors").write_bytes(b"new")
    members = group_by_member(find_fold_models(tmp_path))
    assert first_with_networks(members) == (0, 1, 2) and total_parameters(members[1:]) == 3000


def test_a_twin_of_some_networks_is_named(tmp_path):
    members = with_twins(tmp_path)
    assert notes_on_twins(members) == []
    shutil.rmtree(tmp_path / "gru.delay2" / "fold1")
    members = group_by_member(find_fold_models(tmp_path))
    (note,) = notes_on_twins(members)
    assert note.startswith("  gru.delay2 and gru share only some of their networks, so these count more than once")
    assert first_with_networks(members) == (0, 1, 2)


def test_delayed_predictions_may_have_a_frame_more(tmp_path):
    run = add(tmp_path, "gru.delay1", 0, delay={"frames": 1, "of": "x"}, data={"hash": "h"})
    fold_model = find_fold_models(tmp_path)[0]
    log_probs = fold_model.load("dev")
    stride = fold_model.stride
    counts = {utterance: stride * n - 1 for utterance, n in zip(log_probs.ids, log_probs.lengths.tolist(), strict=True)}
    assert load_checked(fold_model, "dev", "simulated", counts).ids == log_probs.ids
    counts[log_probs.ids[2]] += 1
    with pytest.raises(InputError, match=f"{run}.*frames for {log_probs.ids[2]}"):
        load_checked(fold_model, "dev", "simulated", counts)
