"""Settings of the search that proposes hypotheses: fitted, honest by fold, and the label prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.beam import beam_search
from ensemble.blenders import average as average_module
from ensemble.blenders.average import Average, average_frames
from ensemble.blenders.base import BlendRecipe
from ensemble.blenders.single import Single
from ensemble.decoding.batched import sample_rows
from ensemble.hypotheses import first_pass
from ensemble.hypotheses import fusion as fusion_module
from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.first_pass import FirstPassTrials
from ensemble.hypotheses.fusion import GRID, LOWEST_PRIOR, Fusion, FusionSettings, label_bonus_of, language_terms
from folds.competition.metric import edit_distances
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged

REFERENCES = simulated.references(24, length=10)
INPUTS = simulated.inputs({"a": [simulated.log_probs(REFERENCES, error=0.4, seed=1)]}, REFERENCES)


def fusion(references=REFERENCES):
    split = INPUTS.split
    return Fusion(split.predictions, references, split.language_models, split.outer_folds)


def test_settings_of_a_fold_do_not_depend_on_its_references():
    """With the references of fold 1 exchanged, the settings that hold out fold 1 stay the same."""
    exchanged = [[1] * 5 if fold == 1 else r for r, fold in zip(REFERENCES, INPUTS.split.outer_folds, strict=True)]
    before, after = fusion().settings(0, held_out=1), fusion(exchanged).settings(0, held_out=1)
    assert (before.lm_weight, before.length_bonus) == (after.lm_weight, after.length_bonus)
    np.testing.assert_array_equal(before.token_bonus, after.token_bonus)
    whole, other = fusion().settings(0), fusion(exchanged).settings(0)
    assert (whole.lm_weight, whole.length_bonus) != (other.lm_weight, other.length_bonus)


def test_fitted_settings_have_the_least_distance_on_the_other_folds():
    trials, drawn = fusion()._of_member(0), INPUTS.split.outer_folds != 0
    fitted = fusion().settings(0, held_out=0)
    assert fitted.token_bonus.tolist() == (fitted.prior_weight * trials.label_bonus).tolist()
    found = trials.distances(fitted.lm_weight, fitted.length_bonus, fitted.prior_weight)[drawn].mean()
    assert found <= min(trials.distances(*settings)[drawn].mean() for settings in GRID)


def test_dev_is_searched_with_the_settings_fitted_out_of_fold():
    inputs = simulated.inputs({"a": [simulated.log_probs(REFERENCES, error=0.4, seed=1)]}, REFERENCES)
    fitted = type(inputs)(inputs.split, inputs.nbest_size, inputs.pool_size, fusion())
    with_lm = [fitted.best_with_lm(0, row)[0] for row in range(len(inputs))]
    plain = [inputs.best_with_lm(0, row)[0] for row in range(len(inputs))]
    assert edit_distances(with_lm, REFERENCES).mean() <= edit_distances(plain, REFERENCES).mean() + 0.1
    assert fitted.pool().prior.any() and not inputs.pool().prior.any()


def test_the_prior_is_the_labels_share_of_the_posteriors():
    posteriors = np.array([[0.6, 0.3, 0.1, 0.0], [0.7, 0.1, 0.2, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        log_probs = LogProbs(np.log(posteriors), np.array([0, 2]), ("u",), "", 0, 4)
    prior = np.array([0.4, 0.3, LOWEST_PRIOR]) / [0.7, 0.7, 1]
    bonus = label_bonus_of(log_probs)
    assert bonus[0] == 0
    np.testing.assert_allclose(bonus[1:] - bonus[1], np.log(prior[0]) - np.log(prior), rtol=1e-5)
    assert (bonus[1:] * prior).sum() == pytest.approx(0, abs=1e-6)


def test_a_model_that_gives_no_label_any_probability_has_no_prior():
    blank = np.array([[0.0, -np.inf, -np.inf]], np.float32)
    assert label_bonus_of(LogProbs(blank, np.array([0, 1]), ("u",), "", 0, 4)).tolist() == [0.0] * 3


def test_where_only_held_out_utterances_were_drawn_nothing_is_fitted(monkeypatch):
    """Fold 1 has utterances, but none of them is in the sample: what holds out fold 0 has nothing to be fitted on."""
    in_fold_0 = np.flatnonzero(INPUTS.split.outer_folds == 0)
    monkeypatch.setattr("ensemble.hypotheses.fusion.sample_rows", lambda rows, limit: in_fold_0)
    assert fusion().settings(0, held_out=0) == FusionSettings()
    assert fusion().settings(0, held_out=1).lm_weight == fusion().settings(0).lm_weight
    trials = FirstPassTrials.of(
        INPUTS.load(0).take(in_fold_0),
        [REFERENCES[row] for row in in_fold_0],
        INPUTS.split.language_models,
        INPUTS.split.outer_folds[in_fold_0],
        "a",
    )
    settings, distance = trials.fit(np.arange(len(in_fold_0), 24), (0.4, 1.0))
    assert settings == {"lm_weight": 0.4, "length_bonus": 1.0} and distance == np.inf


def test_out_of_fold_searches_use_settings_that_hold_their_fold_out():
    asked: list[int | None] = []

    class Recording:
        def settings(self, member: int, held_out: int | None = None) -> FusionSettings:
            asked.append(held_out)
            return FusionSettings()

    oof = BlendInputs(INPUTS.split, 20, 40, Recording())
    for inputs in (oof, oof.with_split(replace(INPUTS.split, name="dev"))):
        inputs.fusion_settings(0)
    assert asked == [0, 1, None, None]


def test_a_sample_is_searched_with_the_references_and_language_models_of_its_own_utterances(monkeypatch):
    monkeypatch.setattr(first_pass, "TUNING_UTTERANCES", 6)
    monkeypatch.setattr(fusion_module, "FUSION_UTTERANCES", 6)
    split = INPUTS.split
    arguments = REFERENCES, split.language_models, split.outer_folds, "a"
    for trials in (FirstPassTrials.of(INPUTS.load(0), *arguments), fusion()._of_member(0)):
        task = trials.task
        rows = [split.ids.index(utterance) for utterance in task.log_probs.ids]
        assert len(rows) == 6 and split.outer_folds[rows].tolist() != split.outer_folds[:6].tolist()
        assert task.outer_folds.tolist() == split.outer_folds[rows].tolist()
        assert task.references == [REFERENCES[row] for row in rows]


class Fixed:
    """Settings that are not fitted, and a label prior for each member."""

    def settings(self, member: int, held_out: int | None = None) -> FusionSettings:
        return FusionSettings()

    def label_bonus(self, member: int) -> np.ndarray:
        return np.arange(simulated.CLASSES) * (member + 1.0)


def test_a_pools_prior_is_the_mean_of_its_members_priors():
    members = {name: [simulated.log_probs(REFERENCES, error=0.4, seed=seed)] for seed, name in enumerate("ab")}
    inputs = BlendInputs(simulated.inputs(members, REFERENCES).split, 5, 5, Fixed())
    for chosen, factor in (([0], 1.0), ([1], 2.0), ([0, 1], 1.5)):
        pool = inputs.pool(chosen)
        assert pool.prior == pytest.approx([factor * pool.tokens[h].sum() for h in range(len(pool.tokens))])


def test_language_terms_are_what_the_search_of_each_fold_adds():
    models, row = INPUTS.split.language_models, INPUTS.load(0)[0]
    bonus = np.linspace(-0.5, 1, simulated.CLASSES)
    settings = [FusionSettings(0.5, 1.2, bonus, 0.4), FusionSettings(0.3, -0.2)]
    found = []
    for lm, of_fold in zip(models, settings, strict=True):
        found += beam_search(row[None], [len(row)], beam=5, nbest=5, **of_fold.decoder_settings(lm))[0]
    tokens, lm_scores = Ragged.of([it.tokens for it in found], np.int16), np.array([it.lm for it in found])
    terms = language_terms(settings, np.repeat([0, 1], 5), tokens, lm_scores)
    np.testing.assert_allclose(terms, [it.score - it.ctc for it in found])


def test_a_search_over_settings_begins_without_a_language_model_where_that_is_better():
    """Of two valleys, the start is at the bottom of the shallower one."""

    class Valleys(FirstPassTrials):
        def distances(self, lm_weight: float, length_bonus: float, prior_weight: float = 0.0) -> np.ndarray:
            return np.full(2, min(abs(lm_weight - 1) + abs(length_bonus - 3), abs(lm_weight) + abs(length_bonus) - 1))

    trials = Valleys(None, np.arange(2), "a")
    assert trials.fit(np.arange(2), (1.0, 3.0)) == ({"lm_weight": 0.0, "length_bonus": 0.0}, -1.0)


@pytest.fixture(scope="module")
def two_members():
    members = {name: [simulated.log_probs(REFERENCES, error=0.4, seed=seed)] for seed, name in enumerate("ab")}
    return BlendInputs(simulated.inputs(members, REFERENCES).split, 5, 5, Fixed())


def searched(inputs, log_probs, token_bonus):
    """The best hypotheses with an LM weight of 0.3 and a length bonus of 0.5, by one search per utterance."""
    settings = {"beam": 50, "lm_weight": 0.3, "length_bonus": 0.5, "token_bonus": token_bonus}
    models = [inputs.split.language_models[fold] for fold in inputs.outer_folds]
    return [
        list(beam_search(log_probs[row][None], [len(log_probs[row])], lm=lm, **settings)[0][0].tokens)
        for row, lm in enumerate(models)
    ]


def test_predictions_subtract_the_prior_of_the_members_with_weight(two_members):
    settings = {"lm_weight": 0.3, "length_bonus": 0.5, "prior_weight": 0.2}
    bonus = 0.2 * Fixed().label_bonus(1)
    expected = searched(two_members, two_members.load(1), bonus)
    assert expected != searched(two_members, two_members.load(1), None)
    assert Single().predict(two_members, BlendRecipe("single", {"b": 1.0}, settings)) == expected
    settings |= {"domain": "log", "temperatures": {"a": 1.0, "b": 2.0}}
    frames = average_frames(two_members, np.array([0.0, 1.0]), "log", settings["temperatures"])
    flat = average_frames(two_members, np.array([0.0, 1.0]), "log").values / 2
    np.testing.assert_allclose(frames.values, flat - np.logaddexp.reduce(flat, axis=1, keepdims=True), atol=1e-3)
    recipe = BlendRecipe("average", {"b": 1.0}, settings)
    assert Average().predict(two_members, recipe) == searched(two_members, frames, bonus)


def test_trials_of_the_prior_are_searched_and_kept_by_its_weight(two_members):
    trials, rows = two_members.first_pass(1)
    assert trials.label_bonus.tolist() == Fixed().label_bonus(1).tolist() and rows.tolist() == list(range(24))
    for weight in (0.0, 0.2):
        decoded = searched(two_members, two_members.load(1), weight * Fixed().label_bonus(1))
        assert trials.distances(0.3, 0.5, weight).tolist() == edit_distances(decoded, REFERENCES).tolist()
    assert trials.distances(0.3, 0.5).tolist() != trials.distances(0.3, 0.5, 0.2).tolist()


def test_an_average_is_tuned_on_a_sample_with_its_own_references(two_members, monkeypatch):
    calls = []

    class Recorded:
        @staticmethod
        def of(*arguments):
            calls.append(arguments)
            return Recorded()

        def fit(self, rows, start):
            assert rows.tolist() == list(range(6))
            return {"lm_weight": 0.0}, 0.0

    monkeypatch.setattr(average_module, "TUNING_UTTERANCES", 6)
    monkeypatch.setattr(average_module, "FirstPassTrials", Recorded)
    recipe = BlendRecipe("average", {"a": 0.5, "b": 0.5}, {"domain": "log", "temperatures": {"a": 1.0, "b": 1.0}})
    assert average_module._fit_first_pass(two_members, recipe) == {"lm_weight": 0.0}
    ((log_probs, references, _, outer_folds, _, bonus),) = calls
    rows = sample_rows(np.arange(24), 6)
    assert references == [REFERENCES[row] for row in rows]
    assert outer_folds.tolist() == two_members.outer_folds[rows].tolist()
    assert log_probs.lengths.tolist() == two_members.load(0).lengths[rows].tolist()
    assert bonus.tolist() == (1.5 * np.arange(simulated.CLASSES)).tolist()
