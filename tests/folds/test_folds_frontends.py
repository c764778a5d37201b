"""Front ends: the stand-in's features from its audio, Kaldi's, and which data have which."""

from __future__ import annotations

import numpy as np
import pytest

from folds.audio.reading import open_audio
from folds.data.cache import load_dataset
from folds.frontends.base import FRONT_ENDS, SAMPLE_RATE, compute_features, front_end_of, register_front_end
from folds.frontends.hw3p2_mini import STEP
from folds.frontends.kaldi import mfcc
from models.features import normalize
from registry.errors import InputError


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize("name", FRONT_ENDS.names())
def test_every_front_end_has_a_frame_per_10_ms_and_its_features(name):
    features = compute_features(name, noise(1.0))
    assert features.shape == (98, FRONT_ENDS.entry(name).info["features"])
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert np.isfinite(compute_features(name, noise(0.03))).all()
    silence = compute_features(name, np.zeros(SAMPLE_RATE, np.float32))
    assert np.isfinite(silence).all() and (silence == silence[0]).all()  # nothing random is added


def test_the_stand_ins_values_are_8_bit_steps():
    features = compute_features("hw3p2-mini", noise(3.0))
    steps = features / STEP
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    # Rounding moves a value by at most half a step; its normalisation divides by T - 1 instead of T.
    for loudness in (1.0, 1e-3):  # with 16-bit numbers, the floor of Kaldi's energies would not change what is quiet
        features = compute_features("hw3p2-mini", noise(3.0) * loudness)
        plain = normalize(mfcc(noise(3.0) * loudness, 13, 23, scale=1.0))
        assert np.abs(features - plain).max() < STEP / 2 + 0.02


def test_the_stand_ins_features_are_divided_by_the_sample_standard_deviation():
    """Of three frames it is a fifth smaller than that of the population."""
    features = compute_features("hw3p2-mini", noise(0.046))
    assert len(features) == 3
    np.testing.assert_allclose(features.std(axis=0, ddof=1), 1, atol=STEP / 2)


def test_the_stand_ins_values_end_where_8_bits_do():
    """A tone with the same frame every 10 ms, and a click: ten times as far from the mean as its standard deviation."""
    samples = (0.1 * np.sin(2 * np.pi * 1000 * np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    samples[40_000] += 0.9
    features = compute_features("hw3p2-mini", samples)
    assert np.abs(features).max() == pytest.approx(127 * STEP)


def test_a_front_end_of_another_width_than_it_says_is_refused(monkeypatch):
    monkeypatch.setattr(FRONT_ENDS, "_entries", dict(FRONT_ENDS._entries))
    for name, shape in (("narrow", (98, 12)), ("flat", (98,))):
        register_front_end(name, features=13)(lambda samples, shape=shape: np.zeros(shape))
        with pytest.raises(InputError) as refused:
            compute_features(name, noise(1.0))
        assert str(refused.value) == f"front end {name}: made features of shape {shape}; expected (T, 13)"


def test_kaldi_s_features_do_not_depend_on_loudness():
    """Kaldi reads 16-bit numbers; of those between -1 and 1, its floor of energies cuts off what is quiet."""
    loud = noise(1.0) * 0.3
    features = compute_features("kaldi-mfcc-13", loud)
    np.testing.assert_allclose(normalize(compute_features("kaldi-mfcc-13", loud / 100)), normalize(features), atol=0.01)
    shift = features[:, 0] - mfcc(loud, 13, 23, scale=1.0)[:, 0]
    np.testing.assert_allclose(shift, 2 * np.log(2.0**15) * np.sqrt(23), rtol=1e-3)  # of the mean log energy


def test_unknown_front_ends_are_refused_with_similar_names():
    with pytest.raises(InputError, match="did you mean kaldi-mfcc-13"):
        compute_features("kaldi-mfcc13", noise(1.0))


def test_the_front_end_of_data_is_known_by_hash_or_marker(tmp_path):
    assert front_end_of("a2bc24b9b5ca611e") == "hw3p2-mini"
    assert front_end_of("0" * 16, tmp_path) is None and front_end_of(None) is None
    (tmp_path / "demo.json").write_text("{}")
    assert front_end_of("0" * 16, tmp_path) == "demo"


@pytest.mark.real
def test_features_of_shared_audio_are_the_stand_ins(mini, recordings):
    files = sorted((recordings / "train").glob("*.flac"))
    differences, unrounded = [], []
    for path in files:
        stored = np.load(mini / "train-clean-100" / "mfcc" / f"{path.stem}.npy")
        with open_audio(path) as audio:
            samples = np.concatenate(list(audio.blocks()))
        differences.append(np.abs(compute_features("hw3p2-mini", samples) - stored).ravel())
        unrounded.append(np.abs(normalize(mfcc(samples, 13, 23, scale=1.0)) - stored).max())
    assert len(files) == 12
    everything = np.concatenate(differences)
    assert max(unrounded) < 0.04  # as ../shared/audio/README.md says of Kaldi's features
    assert np.quantile(everything, 0.999) < 2e-5 and everything.max() < STEP + 1e-4


@pytest.mark.real
def test_the_stand_in_is_recognised(mini):
    dataset = load_dataset(mini)
    assert front_end_of(dataset.hash, dataset.root) == "hw3p2-mini"
