"""What is grouped, what is averaged over what, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blenders.average import resampled_rows
from ensemble.members.eligibility import Rules, admitted, total_parameters, within_budget
from ensemble.members.member import common_oof, group_by_member, with_held_out
from ensemble.members.predictions import fold_predictions, load_checked, oof_predictions
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import LogProbs
from registry import InputError
from registry.models import parse_count

IDS = [f"{i}-0-0" for i in range(8)]
STRINGS = simulated.references(8, length=6)


def predictions(rows, seed=1, alphabet="simulated"):
    return simulated.log_probs([STRINGS[r] for r in rows], seed=seed, alphabet=alphabet, ids=[IDS[r] for r in rows])


def add(runs, name, fold, held=None, **config):
    held = range(fold, 8, 2) if held is None else held
    whole = predictions(range(8), seed=fold)
    return simulated.write_run(runs, name, fold, {"oof": predictions(held), "dev": whole, "test": whole}, **config)


def test_seeds_are_members_of_their_own_and_folds_are_not(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1)
    add(tmp_path, "gru", 0, seed=1)
    groups = group_by_member(find_fold_models(tmp_path))
    assert [g.describe() for g in groups] == ["gru (folds 0, 1 of 2)", "gru.seed1 (folds 0 of 2)"]
    assert groups[0].parameters == 2000


def test_copies_are_no_runs(tmp_path):
    run = add(tmp_path, "gru", 0)
    shutil.copytree(run, run.with_name("fold0.bak"))
    shutil.copytree(run, run.with_name("fold0 (1)"))
    assert [member.path for member in find_fold_models(tmp_path)] == [run]


def test_patterns_choose_members_and_name_what_they_miss(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 0)
    found = find_fold_models(tmp_path)
    assert [g.name for g in group_by_member(found, ["l*"])] == ["lstm"]
    with pytest.raises(InputError, match="--members conformer.*gru, lstm"):
        group_by_member(found, ["conformer"])


def test_a_member_with_nothing_held_out_is_left_out_and_said(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 0, folds=1)
    kept, notes = with_held_out(find_fold_models(tmp_path))
    assert [(m.name, m.folds) for m in kept] == [("gru", 2)]
    assert notes == ["fitted on everything, nothing to weigh it by, left out: gru.all"]


def test_oof_is_the_union_of_a_members_folds_and_the_intersection_over_members(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "gru", 1)
    add(tmp_path, "lstm", 1)
    groups = group_by_member(find_fold_models(tmp_path))
    ids, folds, notes = common_oof(groups[:1], IDS)
    assert ids == IDS and folds.tolist() == [0, 1] * 4
    ids, folds, notes = common_oof(groups, IDS)
    assert ids == IDS[1::2] and set(folds) == {1}
    assert "4 of 8 training utterances" in notes[0] and "gru (folds 0, 1 of 2) has 8" in notes[1]
    stream = oof_predictions(groups[0], 0, IDS, "simulated").load()
    assert stream.ids == tuple(IDS)
    np.testing.assert_array_equal(stream[3], predictions([1, 3, 5, 7])[1])


def test_members_without_a_common_utterance_are_refused(tmp_path):
    add(tmp_path, "gru", 0)
    add(tmp_path, "lstm", 1)
    with pytest.raises(InputError, match="common to all members.*gru.*4 utterances"):
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


def test_missing_prediction_is_an_error_that_names_it(tmp_path):
    add(tmp_path, "gru", 0)
    (group,) = group_by_member(find_fold_models(tmp_path))
    (stream,) = fold_predictions(group, 0, "dev", [*IDS, "9-0-0"], "simulated")
    with pytest.raises(InputError, match="member gru, fold 0.*1 of 9 utterances have no prediction.*9-0-0"):
        stream.load()
    (stream,) = fold_predictions(group, 0, "dev", IDS[:7], "simulated")
    with pytest.raises(InputError, match="predicts 1 utterances the data does not have.*7-0-0"):
        stream.load()


def test_another_alphabet_is_refused(tmp_path):
    add(tmp_path, "gru", 0)
    (member,) = find_fold_models(tmp_path)
    with pytest.raises(InputError, match="member gru, fold 0.*alphabet simulated where the data has other"):
        load_checked(member, "dev", "other")


def test_nan_names_the_member_and_the_utterance(tmp_path, monkeypatch):
    add(tmp_path, "gru", 0)
    (member,) = find_fold_models(tmp_path)
    good = member.load("dev")
    values = good.values.copy()
    values[good.offsets[2] + 1, 3] = np.nan
    broken = LogProbs(values, good.offsets, good.ids, good.alphabet, good.blank, good.stride)
    monkeypatch.setattr(type(member), "load", lambda self, split: broken)
    with pytest.raises(InputError, match="member gru, fold 0.*NaN or .inf.*2-0-0"):
        load_checked(member, "dev", "simulated")


def test_resampling_repeats_frames_evenly_within_each_utterance():
    rows = resampled_rows(np.array([0, 2, 5]), np.array([0, 4, 7]))
    assert rows.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert resampled_rows(np.array([0, 3]), np.array([0, 5])).tolist() == [0, 0, 1, 2, 2]


def test_counts_are_read_and_bad_ones_refused():
    assert [parse_count(t) for t in ("20M", "950k", "1.5M", "12")] == [20_000_000, 950_000, 1_500_000, 12]
    with pytest.raises(InputError, match="--max-params lots"):
        parse_count("lots")


def test_rules_leave_out_and_say_so(tmp_path):
    add(tmp_path, "conformer", 0, tags=["attention"])
    add(tmp_path, "gru", 0)
    add(tmp_path, "huge", 0, parameters=5000)
    groups = group_by_member(find_fold_models(tmp_path))
    kept, notes = admitted(groups, Rules(2000, ("attention",)))
    assert [g.name for g in kept] == ["gru"]
    assert "conformer (tag attention)" in notes[0] and "huge (5,000 parameters" in notes[1]
    with pytest.raises(InputError, match="no member is inside the rules"):
        admitted(groups, Rules(10))


def test_fold_models_that_go_together_are_admitted_together(tmp_path):
    for name, folds in (("gru", 2), ("lstm", 1)):
        for fold in range(folds):
            add(tmp_path, name, fold)
    groups = group_by_member(find_fold_models(tmp_path))
    assert [g.name for g in admitted(groups, Rules(1500))[0]] == ["gru", "lstm"]
    kept, notes = admitted(groups, Rules(1500), whole=True)
    assert [g.name for g in kept] == ["lstm"] and "gru (2,000 parameters in all its fold models)" in notes[0]


def test_budget_buys_members_first_and_folds_with_what_is_left(tmp_path):
    for name in ("gru", "lstm"):
        add(tmp_path, name, 0)
        add(tmp_path, name, 1)
    groups = group_by_member(find_fold_models(tmp_path))
    kept = within_budget(groups, {"gru": 0.4, "lstm": 0.6}, 3000)
    assert {g.name: g.folds for g in kept} == {"gru": (0,), "lstm": (0, 1)}
    assert total_parameters(kept) == 3000
    assert total_parameters(within_budget(groups, {"gru": 0.4, "lstm": 0.6}, None)) == 4000
    assert [g.name for g in within_budget(groups, {"lstm": 1.0}, None)] == ["lstm"]
