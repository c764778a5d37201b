"""Attention spellers as a second kind of score: asked through the store, kept there, and used by rescore and mbr."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import simulated_members as simulated
import torch

from ensemble.blenders.rescore import Rescore
from ensemble.hypotheses.attention_scores import SCORED_STRINGS, attention_scorer, pool_attention_scores, spelled
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.open_inputs import open_inputs
from ensemble.members.member import group_by_member
from folds import train
from folds.data.cache import load_dataset
from folds.store import fold_model as fold_model_module
from folds.store.checkpoint import load_weights
from folds.store.fold_model import find_fold_models
from registry import create_model

SMALL = ["--channels", "8", "--bottom", "6", "--hidden", "8", "--layers", "1", "--speller", "7", "--attention", "5"]


@pytest.fixture(scope="module")
def dataset(tiny):
    return load_dataset(tiny, progress=False)


@pytest.fixture
def runs(tiny, tmp_path, monkeypatch):
    """A LAS of two folds, trained for one epoch."""
    fixed = ["train", "--data", str(tiny), "--runs", str(tmp_path), "--model", "las_small", "--folds", "2"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--fold", "all", "--epochs", "1", "--threads", "1", *SMALL])
    train.main()
    return tmp_path


def test_scores_are_the_model_s_and_are_not_asked_for_twice(runs, dataset, monkeypatch):
    member = find_fold_models(runs)[0]
    ids, strings = list(dataset.dev.ids[:2]), [[b"\x01\x02", b""], [b"\x05"]]
    found = spelled(member, "dev", dataset.dev, ids, strings)
    model = create_model(member.model, **member.config["model_config"])
    load_weights(member.folder.weights, model)
    expected = [
        model.eval().spelled(torch.tensor(dataset.dev.features(row)), [list(s) for s in each]).numpy()
        for row, each in enumerate(strings)
    ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)

    asked = []
    monkeypatch.setattr(fold_model_module, "create_model", lambda *_, **__: asked.append(1) or model)
    again = spelled(member, "dev", dataset.dev, ids, strings)
    assert not asked and [each.tolist() for each in again] == [each.tolist() for each in found]
    spelled(member, "dev", dataset.dev, ids[:1], [[b"\x07"]])
    assert asked  # a new string is
    member.folder.weights.write_bytes(member.folder.weights.read_bytes() + b" ")
    monkeypatch.setattr(fold_model_module, "load_weights", lambda *_: asked.append(2))
    spelled(member, "dev", dataset.dev, ids[:1], [[b"\x07"]])
    assert asked == [1, 1, 2]  # and so is what other weights said


def test_out_of_fold_the_model_that_held_an_utterance_out_speaks(runs, dataset):
    members = find_fold_models(runs)
    spell = attention_scorer(members, "oof", dataset.train)
    ids = list(dataset.train.ids)
    found = spell(ids, [[b"\x03"]] * len(ids))
    for member in members:
        for name in member.load("oof").ids:
            (own,) = spelled(member, "oof", dataset.train, [name], [[b"\x03"]])
            assert found[ids.index(name)] == pytest.approx(own)
    on_dev = attention_scorer(members, "dev", dataset.dev)(dataset.dev.ids[:1], [[b"\x03"]])
    each = [spelled(member, "dev", dataset.dev, dataset.dev.ids[:1], [[b"\x03"]])[0] for member in members]
    np.testing.assert_allclose(on_dev[0], np.mean(each, axis=0))


def test_a_member_without_its_weights_does_not_spell(runs, dataset):
    members = find_fold_models(runs)
    members[1].folder.weights.unlink()
    assert attention_scorer(members, "dev", dataset.dev) is None


def test_a_pool_holds_the_likeliest_strings_scores_and_the_lowest_for_the_rest():
    strings = [[bytes([token]) for token in range(1, SCORED_STRINGS + 4)], [b"\x01"]]
    ctc = np.concatenate([-np.arange(SCORED_STRINGS + 3.0), [-7.0]])[:, None]

    def spell(ids, asked):
        assert [len(each) for each in asked] == [SCORED_STRINGS, 1]
        return [-10.0 - np.arange(len(each)) for each in asked]

    found = pool_attention_scores([spell, lambda ids, asked: [2 * each for each in spell(ids, asked)]], "ab", strings, ctc)
    ranked = -15.0 - 1.5 * np.arange(SCORED_STRINGS)
    np.testing.assert_allclose(found, [*ranked, *[ranked[-1]] * 3, -15.0])
    assert pool_attention_scores([], "ab", strings, ctc).tolist() == [0.0] * (SCORED_STRINGS + 4)


def test_a_coarse_stream_does_not_veto_what_a_speller_is_asked():
    """One stream finds all long strings impossible; what the two others find likeliest is asked for nevertheless."""
    strings = [[bytes([1] * length) for length in range(1, 2 * SCORED_STRINGS + 1)]]
    fine = -np.abs(np.arange(1, 2 * SCORED_STRINGS + 1) - 2.0 * SCORED_STRINGS) * 2
    coarse = np.where(np.arange(1, 2 * SCORED_STRINGS + 1) <= SCORED_STRINGS, -1.0, -np.inf)
    asked = []

    def spell(ids, chosen):
        asked.extend(chosen[0])
        return [np.zeros(len(chosen[0]))]

    pool_attention_scores([spell], "a", strings, np.stack([fine, fine, coarse], axis=1))
    assert strings[0][-1] in asked


def test_panels_of_a_las_blend_carry_its_scores(runs, dataset):
    opened = open_inputs(group_by_member(find_fold_models(runs)), dataset)
    assert any("attention speller of las_small" in note for note in opened.notes)
    pool = BlendInputs(opened.splits["dev"], 5, 10).pool()
    assert (pool.spelled < 0).all() and len(pool.spelled) == len(pool.lm)
    recipe = Rescore().fit(BlendInputs(opened.splits["oof"], 5, 10))
    assert recipe.settings["speller_weight"] >= 0


def test_a_speller_that_knows_the_truth_gets_weight_and_mends_the_blend():
    strings = simulated.references(40)
    members = {name: [simulated.log_probs(strings, error=0.15, seed=seed)] for seed, name in enumerate("ab")}
    inputs = simulated.inputs(members, strings)
    truth = {name: bytes(ref) for name, ref in zip(inputs.split.ids, inputs.references, strict=True)}

    def spell(ids, strings):
        known = [truth[name] for name in ids]
        return [np.array([-20.0 * (s != k) for s in each]) for each, k in zip(strings, known, strict=True)]

    predictions = tuple(replace(stream, spell=spell) for stream in inputs.split.predictions)
    knowing = replace(inputs, split=replace(inputs.split, predictions=predictions), _kept={})
    blind, told = (Rescore().fit(each) for each in (inputs, knowing))
    assert blind.settings["speller_weight"] == 0 and told.settings["speller_weight"] > 0
    without, mended = (
        np.mean([a != b for a, b in zip(Rescore().predict(e, r), map(list, e.references), strict=True)])
        for e, r in ((inputs, blind), (knowing, told))
    )
    assert mended < without
