"""Times and confidences of phonemes: from the networks' spikes, with silence between, and as a TextGrid."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ensemble.transcription.formats import to_textgrid
from ensemble.transcription.timing import REACH, NetworkFrames, TimedPhoneme, mean_posteriors, time_phonemes
from ensemble.transcription.transcripts import Transcript
from folds.frontends.base import FRAME_SHIFT, WINDOW


def spikes(frames: dict[int, int], count: int, classes: int = 4, sure: float = 0.97) -> np.ndarray:
    """Log-probabilities of `count` frames, blank but for the classes at `frames`."""
    probs = np.full((count, classes), (1 - sure) / (classes - 1))
    probs[np.arange(count), [frames.get(t, 0) for t in range(count)]] = sure
    return np.log(probs)


NAMES = ("", "[SIL]", "AH", "B")


def test_times_are_the_weighted_mean_of_the_networks_spikes():
    networks = [spikes({10: 2, 30: 3}, 60), spikes({6: 2, 16: 3}, 30)]
    outputs = [NetworkFrames(networks[0], 1, 0.75), NetworkFrames(networks[1], 2, 0.25)]
    first, second = time_phonemes([2, 3], outputs, NAMES, 0.6)
    times = [0.75 * frames + 0.25 * (2 * other + 0.5) for frames, other in ((10, 6), (30, 16))]
    centres = [WINDOW / 2 + FRAME_SHIFT * time for time in times]
    assert first.end == second.start == pytest.approx(np.mean(centres))
    assert first.start == pytest.approx(max(0, centres[0] - REACH)) and second.end == pytest.approx(centres[1] + REACH)
    assert first.confidence == pytest.approx(0.97)


def test_a_phoneme_of_several_frames_is_where_it_is_most_probable():
    probs = np.exp(spikes({11: 2}, 40))
    probs[10] = [0.2, 0.1, 0.6, 0.1]
    (timed,) = time_phonemes([2], [NetworkFrames(np.log(probs), 1, 1.0)], NAMES, 0.42)
    centre = WINDOW / 2 + FRAME_SHIFT * (10 * 0.6 + 11 * 0.97) / (0.6 + 0.97)
    assert (timed.start, timed.end) == pytest.approx((max(0, centre - REACH), centre + REACH))
    assert timed.confidence == pytest.approx(0.97)


def test_no_phoneme_is_after_the_end_of_the_recording():
    """The last output frame may cover input frames that are not there."""
    (timed,) = time_phonemes([2], [NetworkFrames(spikes({2: 2}, 3), 8, 1.0)], NAMES, 0.185)
    assert (timed.start, timed.end) == pytest.approx((0.185 - REACH, 0.185))


def test_a_delayed_network_has_the_times_of_the_others():
    networks = [spikes({10: 2, 30: 3}, 60), spikes({13: 2, 33: 3}, 63)]
    outputs = [NetworkFrames(log_probs, 1, 1.0, delay) for log_probs, delay in zip(networks, (0, 3), strict=True)]
    plain, delayed = (time_phonemes([2, 3], [output], NAMES, 0.6) for output in outputs)
    assert [t.start for t in plain] == pytest.approx([t.start for t in delayed])
    assert [t.end for t in plain] == pytest.approx([t.end for t in delayed])
    (early,) = time_phonemes([2], [NetworkFrames(spikes({1: 2}, 40), 1, 1.0, delay=3)], NAMES, 0.4)
    assert early.start == 0 and early.end == pytest.approx(WINDOW / 2 + REACH)


def test_mean_posteriors_of_a_delayed_and_of_a_slower_network_have_the_times_of_the_others():
    networks = [spikes({10: 2, 30: 3}, 60), spikes({13: 2, 33: 3}, 63), spikes({5: 2, 15: 3}, 30)]
    plain, delayed = NetworkFrames(networks[0], 1, 0.5), NetworkFrames(networks[1], 1, 0.5, delay=3)
    mean = mean_posteriors([plain, delayed])
    np.testing.assert_allclose(mean, np.exp(networks[0]), atol=1e-12)
    slower = mean_posteriors([plain, NetworkFrames(networks[2], 2, 0.5)])
    assert slower.shape == (60, 4) and np.argmax(slower[:, 2]) == 10 and np.argmax(slower[:, 3]) == 30
    assert slower[11, 2] == pytest.approx((0.01 + 0.97) / 2) and slower[9, 2] == pytest.approx(0.01)


def test_confidence_falls_where_networks_disagree_and_with_networks_that_have_too_few_frames():
    agree, other = (NetworkFrames(spikes({10: label}, 40), 1, 0.5) for label in (2, 3))
    (timed,) = time_phonemes([2], [agree, other], NAMES, 0.42)
    assert timed.confidence == pytest.approx((0.97 + 0.01) / 2)
    short = NetworkFrames(spikes({}, 1), 40, 0.5)
    long = NetworkFrames(spikes({10: 2, 20: 3}, 40), 1, 0.5)
    pair = time_phonemes([2, 3], [long, short], NAMES, 0.42)
    assert [timed.confidence for timed in pair] == pytest.approx([0.485, 0.485])
    spread = time_phonemes([2, 3], [short], NAMES, 0.4)
    assert spread == [TimedPhoneme("AH", 0.0, 0.2, 0.0), TimedPhoneme("B", 0.2, 0.4, 0.0)]
    assert time_phonemes([], [short], NAMES, 0.4) == []


def test_silence_takes_what_phonemes_do_not_reach():
    silence, phoneme = time_phonemes([1, 2], [NetworkFrames(spikes({0: 1, 100: 2}, 200), 1, 1.0)], NAMES, 2.0)
    assert silence.start == 0 and silence.end == phoneme.start == pytest.approx(WINDOW / 2 + 1.0 - REACH)
    assert phoneme.end == pytest.approx(WINDOW / 2 + 1.0 + REACH)
    before, after = time_phonemes([2, 3], [NetworkFrames(spikes({20: 2, 120: 3}, 200), 1, 1.0)], NAMES, 2.0)
    assert (before.end, after.start) == pytest.approx((WINDOW / 2 + 0.2 + REACH, WINDOW / 2 + 1.2 - REACH))


def test_a_textgrid_leaves_no_gap_and_quotes_quotes():
    phonemes = (TimedPhoneme("A", 0.1, 0.2, 0.5), TimedPhoneme('"', 0.2, 0.3, 0.25), TimedPhoneme("B", 0.4, 0.4, 1.0))
    text = to_textgrid(Transcript("talk", "talk.wav", 0.5, "gru", phonemes, 'A"B'))
    tiers = text.split("item [2]:")
    values = re.findall(r'xmin = (\S+)\n\s+xmax = (\S+)\n\s+text = "(.*)"\n', tiers[0])
    assert [(float(start), float(end), label) for start, end, label in values] == [
        (0.0, 0.1, ""), (0.1, 0.2, "A"), (0.2, 0.3, '""'), (0.3, 0.5, ""),
    ]  # fmt: skip
    assert re.findall(r'text = "(.*)"', tiers[1]) == ["", "0.500", "0.250", ""]
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n') and "intervals: size = 4" in text
