"""Frame averaging: the mean, the common rate, and the temperatures."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import simulated_members as simulated
from hypothesis import given
from hypothesis import strategies as st

from ensemble.blenders.average import FLOOR, average_frames, common_rate, member_frames
from ensemble.hypotheses.temperature import apply_temperature, fit_temperatures
from ensemble.members.frame_mean import FrameRate, mean_probabilities, resampled_rows
from ensemble.members.member import group_by_member
from ensemble.members.predictions import mean_predictions, oof_predictions
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import LogProbs
from folds.store.ragged import offsets_of
from folds.store.run_folder import SPLITS
from registry import InputError

REFERENCES = simulated.references(6, length=8)


def pair(left=4, right=4):
    strides = {"a": left, "b": right}
    members = {name: [simulated.log_probs(REFERENCES, strides[name], seed=seed)] for seed, name in enumerate("ab", 1)}
    return simulated.inputs(members, REFERENCES)


@given(
    frames=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    source=st.tuples(st.integers(1, 8), st.integers(0, 7)),
    target=st.tuples(st.integers(1, 8), st.integers(0, 7)),
)
def test_a_frame_is_filled_by_the_one_that_covers_its_middle(frames, source, target):
    """By the definition: which input frames each output frame covers, as a list."""
    source_rate, target_rate = (
        FrameRate(offsets_of([-(-(count + delay) // stride) for count in frames]), stride, delay)
        for stride, delay in (source, target)
    )
    rows = resampled_rows(source_rate, target_rate)
    for utterance in range(len(frames)):
        first, last = source_rate.offsets[utterance : utterance + 2]
        for place in range(*target_rate.offsets[utterance : utterance + 2]):
            middle = target[0] * (place - target_rate.offsets[utterance] + 0.5) - target[1]
            starts = {row: source[0] * (row - first) - source[1] for row in range(first, last)}
            covers = [row for row, start in starts.items() if start <= middle < start + source[0]]
            nearest = first if middle < -source[1] else last - 1
            assert rows[place] == (covers[0] if covers else nearest)


def test_a_delayed_twin_is_averaged_where_the_others_are():
    """A network that hears everything four input frames later: its spikes are averaged where they belong."""
    true = np.full((1, 24, simulated.CLASSES), np.log(1e-3), np.float32)
    true[0, :, 0] = 0.0
    for place in range(2, 24, 5):
        true[0, place, [0, place % 5 + 1]] = np.log(1e-3), 0.0
    plain = LogProbs(true[0].astype(np.float16), np.array([0, 24]), ("1-0-0",), "simulated", 0, 2)
    late = np.concatenate([true[0, :1]] * 2 + [true[0]])[: 2 * 13]  # input frame t is heard at t + 4
    twin = LogProbs(late.astype(np.float16), np.array([0, 26]), ("1-0-0",), "simulated", 0, 2)
    inputs = simulated.inputs({"plain": [plain], "twin": [twin]}, [[1, 2, 3, 4, 5]])
    predictions = tuple(replace(it, delay=4 * (it.name != "plain fold 0")) for it in inputs.split.predictions)
    delayed = replace(inputs, split=replace(inputs.split, predictions=predictions))
    for weights in ([0.5, 0.5], [0.9, 0.1]):
        mean = average_frames(delayed, np.array(weights))
        np.testing.assert_allclose(mean.values.argmax(axis=1), true[0].argmax(axis=1))
        assert mean.offsets.tolist() == [0, 24] and mean.stride == 2


def test_a_delay_that_adds_no_frame_is_undone_too():
    """Five input frames make two outputs at stride 4, and so do seven: the late twin's come one later."""
    probs = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 0.9 + 0.03
    frames = LogProbs(np.log(probs[[1, 2]]), np.array([0, 2]), ("u",), "", 0, 4)
    late = replace(frames, values=np.log(probs[[0, 1]]))
    mean = mean_probabilities([(frames, 0), (late, 2)], 2, FrameRate.of(frames))
    np.testing.assert_allclose(mean, [probs[1], (probs[2] + probs[1]) / 2], rtol=1e-6)  # its last frame was cut off


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
    rate = common_rate(inputs, [0, 1])
    assert np.diff(rate.offsets).tolist() == inputs.load(1).lengths.tolist() and rate.stride == 2
    repeated = inputs.load(0).values[resampled_rows(FrameRate.of(inputs.load(0)), rate)]
    greedy = [k for k, _ in itertools.groupby(repeated[: rate.offsets[1]].argmax(axis=1).tolist()) if k]
    assert greedy == [k for k, _ in itertools.groupby(inputs.load(0)[0].argmax(axis=1).tolist()) if k]
    mean = average_frames(inputs, np.array([0.5, 0.5]))
    assert mean.offsets.tolist() == rate.offsets.tolist()


def test_folds_of_a_member_are_averaged_as_probabilities():
    fold_models = [simulated.log_probs(REFERENCES, seed=seed) for seed in (1, 2)]
    inputs = simulated.inputs({"a": fold_models}, REFERENCES)
    expected = np.mean([np.exp(predictions.values.astype(np.float32)) for predictions in fold_models], axis=0)
    np.testing.assert_allclose(np.exp(average_frames(inputs, np.array([1.0])).values), expected, atol=2e-3)


def test_networks_of_different_strides_have_no_mean_and_are_not_one_member(tmp_path):
    """Out of fold, the frames of both would have the stride of one of them."""
    ids = [f"{number}-0-0" for number in range(6)]
    for fold, stride in ((0, 4), (1, 2)):
        whole = simulated.log_probs(REFERENCES, stride, ids=ids)
        simulated.write_run(tmp_path, "gru", fold, dict.fromkeys(SPLITS, whole), stride=stride)
    (member,) = group_by_member(find_fold_models(tmp_path))
    with pytest.raises(InputError, match="member gru: its networks differ in stride: use --fold-mean sequence"):
        mean_predictions(member, 0, "dev", ids, "simulated").load()
    with pytest.raises(InputError, match="member gru: its fold models differ in stride .fold 0 has 4, fold 1 has 2."):
        oof_predictions(member, 0, ids, "simulated").load()


def test_each_fold_model_has_the_temperature_that_was_fitted_on_one():
    fold_models = [simulated.log_probs(REFERENCES, seed=seed) for seed in (1, 2)]
    inputs = simulated.inputs({"a": fold_models}, REFERENCES)
    found = member_frames(inputs, 0, common_rate(inputs, [0]), "probability", 2.0)
    expected = np.mean([np.exp(apply_temperature(predictions.values, 2.0)) for predictions in fold_models], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_temperature_keeps_the_order_and_the_sum():
    rows = pair().load(0).values.astype(np.float32)
    soft = apply_temperature(rows, 2.0)
    np.testing.assert_allclose(np.exp(soft).sum(axis=1), 1, atol=1e-5)
    assert (soft.argmax(axis=1) == rows.argmax(axis=1)).all()
    assert soft.max(axis=1).mean() < rows.max(axis=1).mean()


def test_where_no_transcript_fits_into_the_frames_the_temperature_is_one():
    inputs = simulated.inputs({"coarse": [simulated.log_probs(REFERENCES, 8)]}, [[1, 2] * 200 for _ in REFERENCES])
    assert fit_temperatures(inputs) == [1.0]


def test_an_overconfident_member_gets_a_higher_temperature():
    honest = simulated.log_probs(REFERENCES * 5, error=0.4, seed=3)
    loud = LogProbs(apply_temperature(honest.values, 0.5).astype(np.float16), honest.offsets, honest.ids, "", 0, 4)
    inputs = simulated.inputs({"honest": [honest], "loud": [loud]}, REFERENCES * 5)
    of_honest, of_loud = fit_temperatures(inputs)
    assert of_loud == pytest.approx(2 * of_honest, rel=0.35)
