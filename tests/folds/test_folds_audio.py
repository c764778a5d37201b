"""Reading recordings: formats, channels and sample rates, faults, and the split of long ones."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from folds.audio.reading import open_audio
from folds.audio.segments import split_at_pauses
from folds.frontends.base import SAMPLE_RATE
from registry.errors import InputError


def tone(seconds: float, rate: int = SAMPLE_RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def read(path) -> np.ndarray:
    with open_audio(path) as audio:
        return np.concatenate(list(audio.blocks()))


def test_wav_and_flac_give_the_samples_that_were_written(tmp_path):
    samples = tone(25.0)  # three blocks
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "a.flac", samples, SAMPLE_RATE, subtype="PCM_16")
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples)
    np.testing.assert_allclose(read(tmp_path / "a.flac"), samples, atol=1 / 32768)


def test_stereo_is_the_mean_of_the_channels_with_a_note(tmp_path):
    left, right = tone(0.5), tone(0.5, frequency=1000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)
    with open_audio(tmp_path / "a.wav") as audio:
        assert audio.notes == [f"{tmp_path}/a.wav: 2 channels, mixed down to one"]


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_other_sample_rates_are_converted_across_blocks(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(21.0, rate), rate, subtype="FLOAT")
    samples, expected = read(tmp_path / "a.wav"), tone(21.0)
    assert abs(len(samples) - len(expected)) <= 1
    # Away from the ends, where a sine that begins at once is not band-limited.
    middle = slice(1600, len(expected) - 1600)
    np.testing.assert_allclose(samples[middle], expected[middle], atol=2e-3)
    with open_audio(tmp_path / "a.wav") as audio:
        assert bool(audio.notes) == (rate == 8000)


def test_eight_kilohertz_has_a_note(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(1.0, 8000), 8000)
    with open_audio(tmp_path / "a.wav") as audio:
        assert "8000 Hz, so there is nothing above 4000 Hz" in audio.notes[0]


def write_text(path):
    path.write_text("this is not audio")


def write_empty(path):
    path.write_bytes(b"")


def write_no_samples(path):
    soundfile.write(path, np.zeros(0, np.float32), SAMPLE_RATE)


def write_short(path):
    soundfile.write(path, tone(0.05), SAMPLE_RATE)


def write_silence(path):
    soundfile.write(path, np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)


def write_nan(path):
    samples = tone(12.0)
    samples[11 * SAMPLE_RATE] = np.nan
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")


def write_infinite(path):
    samples = tone(1.0)
    samples[8000] = np.inf
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "no audio .*expected wav, flac"),
        (write_empty, "no audio"),
        (write_no_samples, "0 s of audio; expected at least 0.1 s"),
        (write_short, "0.05 s of audio"),
        (write_silence, "every sample is 0"),
        (write_nan, "at 11.000 s: the samples are NaN or infinite"),
        (write_infinite, "at 0.500 s: the samples are NaN or infinite"),
    ],
)
def test_what_is_no_speech_is_one_line(tmp_path, write, message):
    path = tmp_path / "a.wav"
    write(path)
    with pytest.raises(InputError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_speech_may_be_short_or_followed_by_silence(tmp_path):
    for samples in (tone(0.1), np.concatenate([tone(5.0), np.zeros(20 * SAMPLE_RATE, np.float32)])):
        soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
        np.testing.assert_array_equal(read(tmp_path / "a.wav"), samples)


def test_a_missing_file_and_a_file_without_header_are_one_line(tmp_path):
    with pytest.raises(InputError, match="missing.wav: No such file"):
        open_audio(tmp_path / "missing.wav")
    (tmp_path / "a.raw").write_bytes(bytes(32_000))
    with pytest.raises(InputError, match="a.raw: no audio"):
        open_audio(tmp_path / "a.raw")


def test_damaged_flac_is_one_line(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 30 * SAMPLE_RATE), SAMPLE_RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "a.flac")


@pytest.mark.parametrize("seconds", [1.0, 10.0, 10.01, 10.9, 11.1, 37.3])
@pytest.mark.parametrize("block", [0.37, 10.0, 60.0])
def test_segments_are_all_samples_once_and_not_too_long(seconds, block):
    samples = np.random.default_rng(1).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32)
    size = int(block * SAMPLE_RATE)
    blocks = [samples[start : start + size] for start in range(0, len(samples), size)]
    segments = list(split_at_pauses(blocks, 10.0))
    np.testing.assert_array_equal(np.concatenate([part for _, part in segments]), samples)
    lengths = np.array([len(part) for _, part in segments]) / SAMPLE_RATE
    np.testing.assert_allclose([start for start, _ in segments], np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    assert lengths.max() <= 10 and (len(segments) == 1) == (seconds <= 10)
    assert len(segments) == 1 or lengths.min() >= 1.0


def test_recordings_are_cut_in_pauses():
    loud = np.random.default_rng(2).normal(size=60 * SAMPLE_RATE).astype(np.float32)
    pauses = [7.0, 15.5, 21.9, 30.0, 38.2, 46.0, 53.3]
    for pause in pauses:
        loud[int((pause - 0.2) * SAMPLE_RATE) : int((pause + 0.2) * SAMPLE_RATE)] *= 0.01
    cuts = [start for start, _ in split_at_pauses([loud], 10.0)][1:]
    assert len(cuts) == 7
    np.testing.assert_allclose(cuts, pauses, atol=0.06)


def test_a_cut_is_in_the_second_half_of_the_longest_segment():
    """An earlier pause would make many short utterances, unlike those of the training."""
    samples = np.random.default_rng(3).normal(size=15 * SAMPLE_RATE).astype(np.float32)
    for pause, scale in ((3.0, 0.001), (6.0, 0.1)):
        samples[int((pause - 0.2) * SAMPLE_RATE) : int((pause + 0.2) * SAMPLE_RATE)] *= scale
    _, (cut, _) = split_at_pauses([samples], 10.0)
    assert cut == pytest.approx(6.0, abs=0.06)
    _, (cut, _) = split_at_pauses([samples[: 21 * SAMPLE_RATE // 2]], 10.0)  # half a second too long
    assert cut == pytest.approx(6.0, abs=0.06)
