"""Frame averaging: the mean, the common rate, and the temperatures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blenders.average import FLOOR, average_frames, common_offsets
from ensemble.blenders.temperature import apply_temperature, fit_temperatures
from ensemble.members.frame_mean import resampled_rows
from folds.store.log_probs import LogProbs

REFERENCES = simulated.references(6, length=8)


def pair(left=4, right=4):
    strides = {"a": left, "b": right}
    members = {name: [simulated.log_probs(REFERENCES, strides[name], seed=seed)] for seed, name in enumerate("ab", 1)}
    return simulated.inputs(members, REFERENCES)


def test_resampling_repeats_frames_evenly_within_each_utterance():
    rows = resampled_rows(np.array([0, 2, 5]), np.array([0, 4, 7]))
    assert rows.tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert resampled_rows(np.array([0, 3]), np.array([0, 5])).tolist() == [0, 0, 1, 2, 2]


def test_probability_mean_is_the_weighted_mean():
    inputs = pair()
    a, b = (np.exp(inputs.load(s).values.astype(np.float32)) for s in (0, 1))
    mean = average_frames(inputs, np.array([0.25, 0.75]))
    np.testing.assert_allclose(np.exp(mean.values), 0.25 * a + 0.75 * b, atol=2e-3)


def test_log_mean_is_the_normalised_geometric_mean():
    inputs = pair()
    a, b = (inputs.load(s).values.astype(np.float32) for s in (0, 1))
    expected = np.exp(0.5 * np.maximum(a, np.log(FLOOR)) + 0.5 * np.maximum(b, np.log(FLOOR)))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(average_frames(inputs, np.array([0.5, 0.5]), "log").values), expected, atol=2e-3)


def test_unequal_strides_meet_at_the_finer_rate_and_keep_the_hypothesis():
    inputs = pair(left=8, right=2)
    offsets = common_offsets(inputs, [0, 1])
    assert np.diff(offsets).tolist() == inputs.load(1).lengths.tolist()
    repeated = inputs.load(0).values[resampled_rows(inputs.load(0).offsets, offsets)]
    greedy = [k for k, _ in itertools.groupby(repeated[: offsets[1]].argmax(axis=1).tolist()) if k]
    assert greedy == [k for k, _ in itertools.groupby(inputs.load(0)[0].argmax(axis=1).tolist()) if k]
    mean = average_frames(inputs, np.array([0.5, 0.5]))
    assert np.diff(mean.offsets).tolist() == np.diff(offsets).tolist()


def test_folds_of_a_member_are_averaged_as_probabilities():
    fold_models = [simulated.log_probs(REFERENCES, seed=seed) for seed in (1, 2)]
    inputs = simulated.inputs({"a": fold_models}, REFERENCES)
    expected = np.mean([np.exp(predictions.values.astype(np.float32)) for predictions in fold_models], axis=0)
    np.testing.assert_allclose(np.exp(average_frames(inputs, np.array([1.0])).values), expected, atol=2e-3)


def test_temperature_keeps_the_order_and_the_sum():
    rows = pair().load(0).values.astype(np.float32)
    soft = apply_temperature(rows, 2.0)
    np.testing.assert_allclose(np.exp(soft).sum(axis=1), 1, atol=1e-5)
    assert (soft.argmax(axis=1) == rows.argmax(axis=1)).all()
    assert soft.max(axis=1).mean() < rows.max(axis=1).mean()


def test_an_overconfident_member_gets_a_higher_temperature():
    honest = simulated.log_probs(REFERENCES * 5, error=0.4, seed=3)
    loud = LogProbs(apply_temperature(honest.values, 0.5).astype(np.float16), honest.offsets, honest.ids, "", 0, 4)
    inputs = simulated.inputs({"honest": [honest], "loud": [loud]}, REFERENCES * 5)
    of_honest, of_loud = fit_temperatures(inputs)
    assert of_loud == pytest.approx(2 * of_honest, rel=0.35)
