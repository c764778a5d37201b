"""Beam search: equal to the sum over all alignments on small cases and to an unpruned search; bad input; memory."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from ctc_reference import every_sequence, language_score, log_prob_rows, plain_beam_search, plain_beam_with_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.beam.log_add import log_add
from ensemble.beam.search import beam_search, packed_beam_search
from ensemble.lm.ngram import estimate
from models.ctc import log_likelihood
from registry.errors import InputError

CLASSES = 6
LM = estimate([[1, 2, 3, 1, 2], [2, 3, 4], [1, 2, 2, 5], [5, 5, 1]], CLASSES, order=3)


def decode(rows: np.ndarray, **settings):
    return beam_search(rows[None], [len(rows)], **settings)[0]


def peaky(frames: int, classes: int, seed: int) -> np.ndarray:
    """Posteriors as CTC models produce them: blank between spikes, and an eighth of the frames ambiguous."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(frames, classes))
    best = np.where(random.random(frames) < 0.3, random.integers(1, classes, frames), 0)
    logits[np.arange(frames), best] += 8.0
    logits[random.random(frames) < 0.125] *= 0.3
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(log_prob_rows())
def test_a_wide_beam_finds_every_sequence_with_its_probability(rows):
    expected = every_sequence(rows)
    hypotheses = decode(rows, beam=2000, nbest=2000)
    assert {h.tokens for h in hypotheses} == set(expected)
    np.testing.assert_allclose([h.ctc for h in hypotheses], [expected[h.tokens] for h in hypotheses], atol=1e-4)
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


@settings(deadline=None, max_examples=60)
@given(log_prob_rows(frames=40, classes=CLASSES), st.integers(1, 20), st.sampled_from([0.0, 0.7, -0.7]))
def test_pruning_changes_nothing(rows, beam, bonus):
    expected = plain_beam_search(rows, beam, bonus=bonus)
    hypotheses = decode(rows, beam=beam, nbest=beam, length_bonus=bonus)
    assert_same(hypotheses, expected)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.sampled_from([0.4, 1.0, -0.5]),
    st.sampled_from([0.0, 1.5, -1.0]),
)
def test_pruning_changes_nothing_with_a_language_model(frames, seed, beam, weight, bonus):
    rows = peaky(frames, CLASSES, seed)
    expected = plain_beam_search(rows, beam, LM, weight, bonus)
    hypotheses = decode(rows, beam=beam, nbest=beam, lm=LM, lm_weight=weight, length_bonus=bonus)
    assert_same(hypotheses, expected)
    for h in hypotheses:
        assert h.lm == pytest.approx(LM.score(h.tokens), abs=1e-9)
        assert h.score == pytest.approx(h.ctc + language_score(h.tokens, LM, weight, bonus, end=True), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 20), st.booleans())
def test_pruning_changes_nothing_with_a_bonus_per_token(frames, seed, beam, with_lm):
    rows, lm = peaky(frames, CLASSES, seed), LM if with_lm else None
    token_bonus = np.random.default_rng(seed).normal(size=CLASSES)
    expected = plain_beam_search(rows, beam, lm, 0.7, 0.5 + token_bonus)
    hypotheses = decode(rows, beam=beam, nbest=beam, lm=lm, lm_weight=0.7, length_bonus=0.5, token_bonus=token_bonus)
    assert_same(hypotheses, expected)
    for h in hypotheses:
        added = language_score(h.tokens, lm, 0.7, 0.5 + token_bonus, end=True)
        assert h.score == pytest.approx(h.ctc + added, abs=1e-6)


def test_a_bonus_may_bring_a_token_into_the_beam_that_is_improbable():
    rows = np.log(np.float32([[0.98, 0.01, 0.01], [0.9, 0.02, 0.08]]))
    hypotheses = decode(rows, beam=2, nbest=2, length_bonus=3.0)
    assert [h.tokens for h in hypotheses] == [(2,), ()]
    assert_same(hypotheses, plain_beam_search(rows, 2, bonus=3.0))


def test_packed_hypotheses_are_the_same():
    batch, lengths = np.stack([peaky(30, CLASSES, seed) for seed in range(4)]), np.array([30, 7, 1, 22])
    packed = packed_beam_search(batch, lengths, beam=6, nbest=5, lm=LM, lm_weight=0.4)
    hypotheses = beam_search(batch, lengths, beam=6, nbest=5, lm=LM, lm_weight=0.4)
    assert packed.unpack() == hypotheses and np.diff(packed.offsets).tolist() == list(map(len, hypotheses))
    flat = [h for nbest in hypotheses for h in nbest]
    assert packed.tokens.values.tolist() == [token for h in flat for token in h.tokens]
    assert packed.scores.tolist() == [h.score for h in flat]


def assert_same(hypotheses, expected) -> None:
    """The same hypotheses with the same scores to 1e-4; at the edge of the beam ties may be broken differently."""
    worst = min(expected.values())
    scores = {h.tokens: h.score for h in hypotheses}
    assert len(scores) == len(expected)
    for tokens in set(scores) ^ set(expected):
        assert scores.get(tokens, expected.get(tokens)) == pytest.approx(worst, abs=1e-4)
    for tokens in set(scores) & set(expected):
        assert scores[tokens] == pytest.approx(expected[tokens], abs=1e-4)


@pytest.mark.parametrize("added", [0, -8])
def test_long_utterances_keep_their_precision(added):
    """Whatever a frame's log-probabilities have in common: here a power of two, so that float32 loses nothing."""
    rows = np.float32(np.round(peaky(400, 30, seed=5) * 64) / 64 + added)
    assert_same(decode(rows, beam=6, nbest=6), plain_beam_search(rows, 6))


def test_the_logarithm_of_a_sum_is_exact_to_float32():
    for high in np.float32([0.0, -0.3, 2.5]):
        for low in high - np.float32(np.linspace(0, 40, 401)):
            for pair in ((high, low), (low, high)):
                assert log_add(*pair) == pytest.approx(np.logaddexp(*np.float64(pair)), abs=3e-7)


@pytest.mark.parametrize("worst", [0.0, -1.0, -1e9])
def test_as_many_of_the_tied_stay_as_there_is_room_for(worst):
    row = np.float32([worst, worst / 2 + 1, worst, worst])
    hypotheses = decode(row[None], beam=2, nbest=2)
    assert [h.score for h in hypotheses] == pytest.approx([row[1], row[0]], abs=1e-6) and hypotheses[0].tokens == (1,)
    # After the second frame, () and (1) tie for the last place in the beam.
    rows = np.log(np.maximum(np.float32([[0.4, 0.4, 0.2], [0.2, 0.0, 0.8]]), 1e-38))
    assert_same(decode(rows, beam=3, nbest=3), plain_beam_search(rows, 3))


def test_the_beams_probability_is_at_most_the_exact_one():
    rows = peaky(200, 41, seed=6)
    hypotheses = decode(rows, beam=50, nbest=10)
    exact = log_likelihood(rows, [h.tokens for h in hypotheses])
    assert all(h.ctc <= score + 1e-3 for h, score in zip(hypotheses, exact, strict=True))


def test_frames_and_confidences_are_where_each_token_is_most_probable():
    rows = np.full((9, 4), 0.02)
    rows[:, 0] = 0.94
    for frame, token, probability in ((1, 2, 0.5), (2, 2, 0.9), (3, 2, 0.9), (5, 2, 0.8), (6, 3, 0.7), (7, 3, 0.6)):
        rows[frame] = (1 - probability) / 3
        rows[frame, token] = probability
    best = decode(np.log(rows), beam=10)[0]
    assert best.tokens == (2, 2, 3)
    assert best.frames == (2, 5, 6)
    np.testing.assert_allclose(best.confidences, (0.9, 0.8, 0.7), atol=1e-6)
    assert decode(np.float32([[0.0, 3.0]]))[0].confidences == (1.0,)  # where log-probabilities are not normalised


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 20), st.sampled_from([0.0, 2.0, -2.0]))
def test_tokens_are_placed_between_their_emission_and_the_next(frames, seed, beam, bonus):
    rows = peaky(frames, CLASSES, seed)
    expected = plain_beam_with_frames(rows, beam, LM, 0.4, bonus)
    for h in decode(rows, beam=beam, nbest=beam, lm=LM, lm_weight=0.4, length_bonus=bonus):
        emitted = (*expected[h.tokens][1], frames)
        spans = zip(h.tokens, itertools.pairwise(emitted), strict=True)
        assert list(h.frames) == [start + rows[start:stop, token].argmax() for token, (start, stop) in spans]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 80), st.integers(0, 10**6), st.integers(1, 30))
def test_frames_go_forward_and_confidences_are_their_probabilities(frames, seed, beam):
    rows = peaky(frames, CLASSES, seed)
    for h in decode(rows, beam=beam, nbest=beam):
        assert len(h.frames) == len(h.confidences) == len(h.tokens)
        assert all(0 <= a < b < frames for a, b in zip((-1, *h.frames)[1:-1], h.frames[1:], strict=True))
        np.testing.assert_allclose(h.confidences, np.exp(rows[list(h.frames), list(h.tokens)]), rtol=1e-5)


def test_a_batch_equals_its_utterances_decoded_alone_whatever_the_padding_is():
    batch = np.stack([peaky(60, 10, seed) for seed in range(7)])
    lengths = np.array([60, 1, 17, 33, 2, 59, 40])
    batch[2, 17:] = np.nan
    together = beam_search(batch, lengths, beam=8, nbest=4, threads=3)
    alone = [decode(rows[:length], beam=8, nbest=4) for rows, length in zip(batch, lengths, strict=True)]
    assert together == alone == beam_search(batch, lengths, beam=8, nbest=4, threads=1)


def test_nothing_to_decode_one_frame_and_one_class():
    assert beam_search(np.zeros((0, 5, 3), np.float32), np.zeros(0, int)) == []
    assert [h.tokens for h in decode(np.zeros((4, 1)), beam=3, nbest=3)] == [()]
    hypotheses = decode(np.log([[0.2, 0.5, 0.3]]), beam=3, nbest=3)
    assert [h.tokens for h in hypotheses] == [(1,), (2,), ()]
    np.testing.assert_allclose([h.ctc for h in hypotheses], np.log([0.5, 0.3, 0.2]), atol=1e-6)


def test_frames_with_a_single_possible_class_leave_a_single_sequence():
    path = [0, 2, 2, 0, 2, 1, 0]
    rows = np.full((7, 3), -np.inf, np.float32)
    rows[np.arange(7), path] = 0.0
    hypotheses = decode(rows, beam=5, nbest=5)
    assert [h.tokens for h in hypotheses] == [(2, 2, 1)]
    assert hypotheses[0].score == pytest.approx(0.0, abs=1e-6)


def test_float16_and_float64_are_read_as_well():
    rows = peaky(30, 10, seed=1).astype(np.float16)
    assert decode(rows, beam=5) == decode(rows.astype(np.float64), beam=5)


@pytest.mark.parametrize(
    ("value", "message"), [
        (np.nan, "NaN"),
        (np.inf, r"\+inf"),
        (-np.inf, "no class with a probability above zero"),
        (-5e29, "no class with a probability above zero"),
    ],
)
def test_bad_values_name_utterance_and_frame(value, message):
    batch = np.full((2, 5, 3), -1.0, np.float32)
    batch[1, 3] = value
    with pytest.raises(InputError, match=f"utterance 1, frame 3: {message}"):
        beam_search(batch, [5, 5])
    assert len(beam_search(batch, [5, 3])) == 2


@pytest.mark.parametrize(
    ("shape", "lengths", "options", "message"),
    [
        ((1, 0, 3), [0], {}, "length 0"),
        ((1, 4, 3), [0], {}, "length 0; expected 1 to 4"),
        ((1, 4, 3), [5], {}, "length 5; expected 1 to 4"),
        ((1, 4, 3), [4, 4], {}, "one integer for each of the 1 utterances"),
        ((4, 3), [4], {}, r"expected floats of shape \(N, T, C\)"),
        ((1, 4, 3), [4], {"beam": 0}, "beam is 0; expected 1 or more"),
        ((1, 4, 3), [4], {"beam": 5, "nbest": 6}, "nbest is 6; expected 1 to 5"),
        ((1, 4, 3), [4], {"nbest": 0}, "nbest is 0"),
        ((1, 4, 3), [4], {"lm": LM, "lm_weight": 1.0}, "6 classes, the log-probabilities 3"),
        ((1, 4, 3), [4], {"length_bonus": np.nan}, "must be finite"),
        ((1, 4, 3), [4], {"length_bonus": 2e6}, r"length bonus .* are up to 2e\+06; expected at most 1e\+06"),
        ((1, 4, 6), [4], {"lm": LM, "lm_weight": -1e7}, "language model's log-probabilities times its weight are up"),
        ((1, 4, 3), [4], {"token_bonus": np.zeros(2)}, r"token bonus has shape \(2,\); expected 3 finite numbers"),
        ((1, 4, 3), [4], {"token_bonus": np.full(3, np.inf)}, "expected 3 finite numbers"),
    ],
)
def test_bad_calls_are_one_clear_line(shape, lengths, options, message):
    with pytest.raises(InputError, match=message):
        beam_search(np.full(shape, -1.0, np.float32), lengths, **options)


def test_memory_grows_with_beam_and_frames_not_with_classes():
    # In a separate process, so that the peak is the decoder's. 50 prefixes x 10,000 frames x 28 bytes are 14 MB; a
    # search that kept all classes would need 41 or 400 times that.
    script = """
import resource, numpy as np
from ensemble.beam import beam_search
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for classes in (41, 400):
    rows = np.random.default_rng(0).normal(size=(1, 10_000, classes)).astype(np.float32)
    beam_search(rows[:, :100], [100], beam=50, nbest=50, threads=1)
    before = peak()
    beam_search(rows, [10_000], beam=50, nbest=50, threads=1)
    print(peak() - before)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert all(float(megabytes) < 60 for megabytes in process.stdout.split()), process.stdout
