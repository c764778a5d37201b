"""Attention scores: computed from the weights in the runs folder, cached there, and used by rescore and mbr."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_members as simulated
import torch

from ensemble.blenders.rescore import Rescore
from ensemble.hypotheses import attention_scores as attention_module
from ensemble.hypotheses.attention_scores import (
    SCORED_HYPOTHESES,
    attention_scorer,
    attention_scores,
    can_score,
    pool_attention_scores,
)
from ensemble.hypotheses.open_inputs import InputOptions, open_inputs
from ensemble.hypotheses.scoring import ATTENTION_GRID, lm_grid
from ensemble.members.member import group_by_member
from folds import train
from folds.store.fold_model import find_fold_models, load_model
from folds.store.ragged import Ragged, offsets_of
from models.features import FeatureTransform, delayed

SMALL = ["--channels", "8", "--bottom", "6", "--hidden", "8", "--layers", "1", "--speller", "7", "--attention", "5"]


@pytest.fixture
def runs(tiny, tmp_path, monkeypatch):
    """A LAS of two folds, trained for one epoch."""
    fixed = ["train", "--data", str(tiny), "--runs", str(tmp_path), "--model", "las_small", "--folds", "2"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--fold", "all", "--epochs", "1", "--threads", "1", *SMALL])
    train.main()
    return tmp_path


def test_scores_are_the_model_s_and_are_cached(runs, dataset, monkeypatch):
    fold_model = find_fold_models(runs)[0]
    ids, hypotheses = list(dataset.dev.ids[:2]), [[b"\x01\x02", b""], [b"\x05"]]
    scores = attention_scores(fold_model, "dev", dataset.dev, ids, hypotheses)
    model = load_model(fold_model)
    expected = [
        model.attention_scores(torch.tensor(dataset.dev.features(row)), [list(h) for h in of_utterance]).numpy()
        for row, of_utterance in enumerate(hypotheses)
    ]
    for of_store, of_model in zip(scores, expected, strict=True):
        np.testing.assert_allclose(of_store, of_model, rtol=1e-5)
    assert fold_model.folder.attention_scores("dev").exists()

    loaded = []

    def load_and_count(fold_model):
        loaded.append(fold_model)
        return model

    monkeypatch.setattr(attention_module, "load_model", load_and_count)
    again = attention_scores(fold_model, "dev", dataset.dev, ids, hypotheses)
    assert not loaded and [row.tolist() for row in again] == [row.tolist() for row in scores]
    attention_scores(fold_model, "dev", dataset.dev, ids[:1], [[b"\x07"]])
    assert len(loaded) == 1  # a new hypothesis needs the model
    attention_scores(fold_model, "dev", dataset.dev, ids[:1], [[b"\x07"]])
    assert len(loaded) == 1
    fold_model.folder.weights.write_bytes(fold_model.folder.weights.read_bytes() + b" ")
    attention_scores(fold_model, "dev", dataset.dev, ids[:1], [[b"\x07"]])
    assert len(loaded) == 2  # and so do scores of other weights


def test_out_of_fold_an_utterance_is_scored_by_the_model_that_held_it_out(runs, dataset):
    fold_models = find_fold_models(runs)
    ids = list(dataset.train.ids)
    scorer = attention_scorer(fold_models, "oof", dataset.train, dataset.hash)
    dev_scorer = attention_scorer(fold_models, "dev", dataset.dev, dataset.hash)
    assert scorer is not None and dev_scorer is not None
    scores = scorer(ids, [[b"\x03"]] * len(ids))
    for fold_model in fold_models:
        for utterance in fold_model.load("oof").ids:
            (own,) = attention_scores(fold_model, "oof", dataset.train, [utterance], [[b"\x03"]])
            assert scores[ids.index(utterance)] == pytest.approx(own)
    dev_ids = dataset.dev.ids[:1]
    on_dev = dev_scorer(dev_ids, [[b"\x03"]])
    by_model = [attention_scores(model, "dev", dataset.dev, dev_ids, [[b"\x03"]])[0] for model in fold_models]
    np.testing.assert_allclose(on_dev[0], np.mean(by_model, axis=0))


def test_a_member_without_its_weights_has_no_attention_scores(runs, dataset):
    fold_models = find_fold_models(runs)
    fold_models[1].folder.weights.unlink()
    assert attention_scorer(fold_models, "dev", dataset.dev, dataset.hash) is None


def test_a_member_of_other_data_has_no_attention_scores(runs, dataset):
    """Trained on smoothed features, for example: the scores would be of features that it does not know."""
    fold_models = find_fold_models(runs)
    assert can_score(fold_models, dataset.hash) and not can_score(fold_models, "other")
    assert attention_scorer(fold_models, "dev", dataset.dev, "other") is None
    inputs = open_inputs(group_by_member(fold_models), dataset)
    assert any("the attention decoder of las_small scores the 40 most likely" in note for note in inputs.notes)
    inputs = open_inputs(group_by_member(fold_models), replace(dataset, hash="other"))
    assert any("the attention decoder of las_small is not used: it was trained on" in note for note in inputs.notes)


def packed(pools):
    """Offsets of the utterances, and their hypotheses one after the other."""
    return offsets_of(map(len, pools)), Ragged.of([list(hypothesis) for pool in pools for hypothesis in pool], np.int16)


def test_a_pool_holds_the_most_likely_hypotheses_scores_and_the_lowest_for_the_rest():
    pools = [[bytes([token]) for token in range(1, SCORED_HYPOTHESES + 4)], [b"\x01"]]
    ctc = np.concatenate([-np.arange(SCORED_HYPOTHESES + 3.0), [-7.0]])[:, None]

    def scorer(ids, candidates):
        assert [len(of_utterance) for of_utterance in candidates] == [SCORED_HYPOTHESES, 1]
        return [-10.0 - np.arange(len(of_utterance)) for of_utterance in candidates]

    def twice(ids, candidates):
        return [2 * scores for scores in scorer(ids, candidates)]

    scores = pool_attention_scores([[scorer, scorer, scorer], [twice]], "ab", *packed(pools), ctc)
    ranked = -15.0 - 1.5 * np.arange(SCORED_HYPOTHESES)  # of two members, one of three networks
    np.testing.assert_allclose(scores, [*ranked, *[ranked[-1]] * 3, -15.0])
    assert pool_attention_scores([], "ab", *packed(pools), ctc).tolist() == [0.0] * (SCORED_HYPOTHESES + 4)


def test_members_of_a_pool_count_alike_whatever_their_number_of_networks():
    references = simulated.references(4, length=6)
    network = simulated.log_probs(references)
    inputs = simulated.inputs({"a": [network] * 3, "b": [network]}, references, nbest_size=3, pool_size=3)
    predictions = tuple(
        replace(of_network, attention_scorer=lambda ids, lists, value=value: [np.full(len(it), value) for it in lists])
        for of_network, value in zip(inputs.split.predictions, (-1.0, -2.0, -3.0, -10.0), strict=True)
    )
    pool = inputs.with_split(replace(inputs.split, predictions=predictions)).pool()
    np.testing.assert_allclose(pool.attention, (-2 - 10) / 2)


def test_a_coarse_model_does_not_exclude_hypotheses_from_scoring():
    """One model finds all long hypotheses impossible; the one that two others prefer is still scored."""
    pools = [[bytes([1] * length) for length in range(1, 2 * SCORED_HYPOTHESES + 1)]]
    fine = -np.abs(np.arange(1, 2 * SCORED_HYPOTHESES + 1) - 2.0 * SCORED_HYPOTHESES) * 2
    coarse = np.where(np.arange(1, 2 * SCORED_HYPOTHESES + 1) <= SCORED_HYPOTHESES, -1.0, -np.inf)
    scored = []

    def scorer(ids, candidates):
        scored.extend(candidates[0])
        return [np.zeros(len(candidates[0]))]

    pool_attention_scores([[scorer]], "a", *packed(pools), np.stack([fine, fine, coarse], axis=1))
    assert pools[0][-1] in scored


def test_inputs_of_a_las_blend_have_its_scores(runs, dataset):
    inputs = open_inputs(group_by_member(find_fold_models(runs)), dataset, InputOptions(nbest=5, pool=10))
    assert any("attention decoder of las_small" in note for note in inputs.notes)
    pool = inputs.dev.pool()
    assert (pool.attention < 0).all() and len(pool.attention) == len(pool.lm)
    recipe = Rescore().fit(inputs.oof)
    assert "attention_weight" in lm_grid(inputs.oof.pool()) and recipe.settings["attention_weight"] in ATTENTION_GRID


def test_scores_that_know_the_references_get_weight_and_improve_the_blend():
    references = simulated.references(40)
    members = {name: [simulated.log_probs(references, error=0.15, seed=seed)] for seed, name in enumerate("ab")}
    inputs = simulated.inputs(members, references)
    reference_of = dict(zip(inputs.split.ids, map(bytes, inputs.references), strict=True))

    def scorer(ids, candidates):
        known = [reference_of[name] for name in ids]
        return [
            np.array([-20.0 * (hypothesis != reference) for hypothesis in of_utterance])
            for of_utterance, reference in zip(candidates, known, strict=True)
        ]

    predictions = tuple(replace(of_member, attention_scorer=scorer) for of_member in inputs.split.predictions)
    informed = inputs.with_split(replace(inputs.split, predictions=predictions))
    plain_recipe, informed_recipe = Rescore().fit(inputs), Rescore().fit(informed)
    assert plain_recipe.settings["attention_weight"] == 0 and informed_recipe.settings["attention_weight"] > 0
    plain_errors, informed_errors = (
        np.mean([a != b for a, b in zip(Rescore().predict(x, recipe), map(list, x.references), strict=True)])
        for x, recipe in ((inputs, plain_recipe), (informed, informed_recipe))
    )
    assert informed_errors < plain_errors


def test_a_network_scores_features_as_it_reads_them_for_the_utterance_s_group(dataset, tmp_path, monkeypatch):
    """A delayed twin, or one with a layer for each group, knows no others."""
    calls = []

    class Network:
        def attention_scores(self, features, sequences, groups):
            calls.append((features.numpy(), sequences, tuple(groups)))
            return -torch.arange(1.0, len(sequences) + 1)

    monkeypatch.setattr(attention_module, "load_model", lambda fold_model: Network())
    folder = SimpleNamespace(attention_scores=lambda split: tmp_path / split, weights_hash="w")
    fold_model = SimpleNamespace(folder=folder, name="twin", transform=FeatureTransform(delay=3))
    dev = replace(dataset.dev, groups=tuple(f"speaker {row}" for row in range(len(dataset.dev))))
    ids = [dev.ids[row] for row in (4, 1)]
    scores = attention_scores(fold_model, "dev", dev, ids, [[b"\x01", b"\x02\x03"], []])
    assert [row.tolist() for row in scores] == [[-1.0, -2.0], []]
    ((features, sequences, groups),) = calls
    np.testing.assert_array_equal(features, delayed(dev.features(4), 3))
    assert sequences == [[1], [2, 3]] and groups == ("speaker 4",)
