"""Trained models through the public interface: predictions equal the network's, every bad file or input is one line."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

import models
from models import CTCNetwork, ModelConfig, create_model, write_weights
from models import trained as trained_module
from models.features import normalize, smoothed
from models.layers import FrameLayer, Pyramid
from models.weights_file import Description, load_weights, read_description
from registry import MODELS, InputError, register_model

PHONEMES = ("", "HH", "AH", "L", "OW")
CHARACTERS = ("", "h", "A", "l", "o")
SIZES = {"features": 6, "classes": 5, "channels": 8, "bottom": 8, "hidden": 8, "layers": 1}


def describe_network(**changes) -> dict:
    description = {
        "model": "pblstm",
        "config": dict(SIZES),
        "phonemes": list(PHONEMES),
        "characters": list(CHARACTERS),
        "normalization": "utterance",
    }
    return description | changes


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_model("pblstm", **SIZES).eval()


@pytest.fixture
def run(tmp_path, network) -> Path:
    """The folder of a run, runs/pblstm/fold0."""
    folder = tmp_path / "runs" / "pblstm" / "fold0"
    write_weights(folder / models.WEIGHTS_FILE, network, describe_network())
    return folder


def utterances(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [5 + 3 * random.normal(size=(length, 6)) for length in lengths]


def test_a_loaded_model_is_described(run):
    trained = models.load(run)
    assert (trained.name, trained.features, trained.classes, trained.stride) == ("pblstm", 6, 5, 4)
    assert trained.phonemes == PHONEMES and trained.characters == CHARACTERS
    assert not trained.network.training


def test_predictions_are_those_of_the_network_on_normalised_features(run, network):
    trained = models.load(str(run))
    (features,) = utterances(41)
    log_probs = trained.predict(features)
    assert log_probs.shape == (11, 5) and log_probs.dtype == np.float32
    with torch.no_grad():
        expected, _ = network(torch.from_numpy(normalize(features))[None], torch.tensor([41]))
    np.testing.assert_array_equal(log_probs, expected[0].numpy())


@pytest.mark.parametrize("batch_frames", [1, 60, 10_000])
def test_a_list_gives_a_list_in_its_order(run, monkeypatch, batch_frames):
    monkeypatch.setattr(trained_module, "BATCH_FRAMES", batch_frames)
    trained = models.load(run)
    several = utterances(20, 7, 33, 1, 20)
    predictions = trained.predict(several)
    assert [len(values) for values in predictions] == [5, 2, 9, 1, 5]
    for values, features in zip(predictions, several, strict=True):
        np.testing.assert_allclose(values, trained.predict(features), atol=2e-5)
    assert trained.predict([]) == [] and trained.decode([]) == []
    assert trained.decode(predictions) == [trained.decode(values) for values in predictions]


def test_batches_are_bounded_with_their_padding(monkeypatch):
    """From short to long, so that little is padded."""
    monkeypatch.setattr(trained_module, "BATCH_FRAMES", 60)
    assert list(trained_module._batches([20, 7, 33, 1, 20, 90])) == [[3, 1, 0], [4], [2], [5]]


def test_features_may_be_of_any_numeric_type(run):
    trained = models.load(run)
    whole = np.arange(60).reshape(10, 6) % 7
    expected = trained.predict(whole.astype(np.float64))
    for kind in (np.int16, np.float32):
        np.testing.assert_array_equal(trained.predict(whole.astype(kind)), expected)
    np.testing.assert_array_equal(trained.predict(torch.from_numpy(whole)), expected)


def test_decoding_merges_repeats_and_drops_blanks(run):
    trained = models.load(run)
    path = [0, 1, 1, 2, 0, 3, 0, 3, 4, 4]
    log_probs = np.log(np.eye(5, dtype=np.float32)[path] + 1e-6)
    phonemes = trained.decode(log_probs)
    assert phonemes == ["HH", "AH", "L", "L", "OW"]
    assert trained.to_string(phonemes) == trained.to_string([1, 2, 3, 3, 4]) == "hAllo"
    assert trained.to_string(np.array([1, 0, 2])) == "hA" and trained.to_string([]) == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.predict(np.zeros((3, 7))), r"utterance 0: features are float64 \(3, 7\); expected .*\(T, 6\)"),
        (lambda t: t.predict(np.zeros((0, 6))), r"utterance 0: features are float64 \(0, 6\); .* T at least 1"),
        (lambda t: t.predict(np.zeros((2, 3, 6))), r"features are float64 \(2, 3, 6\); .* or a list of such arrays"),
        (lambda t: t.predict(np.array([["a"] * 6])), r"features are <U1 \(1, 6\); expected numbers"),
        (lambda t: t.predict([np.zeros((3, 6)), np.zeros(6)]), r"utterance 1: features are float64 \(6,\)"),
        (lambda t: t.predict(_with(np.nan)), "utterance 0, frame 2: the features are NaN or infinite"),
        (lambda t: t.predict([np.zeros((3, 6)), _with(np.inf)]), "utterance 1, frame 2: the features are NaN"),
        (lambda t: t.decode(np.zeros((3, 6))), r"log-probabilities are \(3, 6\); expected \(T', 5\)"),
        (lambda t: t.decode(np.full((3, 5), np.nan)), "utterance 0, frame 0: NaN; expected log-probabilities"),
        (lambda t: t.to_string(["HH", "ZZ"]), r"unknown label 'ZZ': expected phonemes \(HH AH L OW\) or tokens from 0"),
        (lambda t: t.to_string([5]), "unknown label 5: expected phonemes"),
    ],
)
def test_bad_input_is_one_line(run, call, message):
    with pytest.raises(InputError, match=message) as raised:
        call(models.load(run))
    assert "\n" not in str(raised.value)


def _with(value: float) -> np.ndarray:
    features = np.zeros((4, 6))
    features[2, 3] = value
    return features


def _replace_header(run: Path, header: dict[str, str] | None) -> None:
    network = create_model("pblstm", **SIZES)
    (run / models.WEIGHTS_FILE).write_bytes(save(network.state_dict(), header))


def _described(run: Path, **changes) -> None:
    _replace_header(run, {"description": json.dumps(describe_network(**changes))})


def _cut(run: Path) -> None:
    path = run / models.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / models.WEIGHTS_FILE).unlink(), "safetensors: no such file: train this run to the end"),
        (_cut, r"weights.safetensors: cannot be read \(.*\): copy the file again, or train again"),
        (lambda run: (run / models.WEIGHTS_FILE).write_bytes(b""), r"cannot be read \("),
        (lambda run: _replace_header(run, None), "no description, so it was made by an earlier version: train this"),
        (lambda run: _replace_header(run, {"description": "{"}), r"the description is damaged \("),
        (lambda run: _replace_header(run, {"description": "[]"}), r"the description is damaged \("),
        (lambda run: _replace_header(run, {"description": "{}"}), r"the description is damaged \(no model\)"),
        (lambda run: _described(run, config=3), r"the description is damaged \("),
        (lambda run: _described(run, config={}), r"\(features and classes are None and None; expected integers\)"),
        (lambda run: _described(run, phonemes=["", "HH"]), r"\(2 phonemes; expected one string for each of the 5 cl"),
        (lambda run: _described(run, characters=list("hAlo!")), "characters are not distinct, or that of class 0"),
        (lambda run: _described(run, normalization="global"), "normalization is 'global'; expected utterance"),
        (lambda run: _described(run, model="pbltsm"), "unknown model 'pbltsm'; did you mean pblstm"),
        (lambda run: _described(run, config=SIZES | {"width": 3}), "model 'pblstm': no option width; it has features"),
        (lambda run: _described(run, config=SIZES | {"hidden": "8"}), r"option hidden is '8' \(str\); expected int"),
        (lambda run: _described(run, config=SIZES | {"hidden": 9}), r"not the weights of this network \(.*mismatch"),
    ],
)
def test_a_run_that_cannot_be_loaded_is_one_line(run, damage, message):
    damage(run)
    with pytest.raises(InputError, match=message) as raised:
        models.load(run)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(f"{run / models.WEIGHTS_FILE}: ")


def test_a_folder_that_is_not_a_run_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match="none: no such folder: expected that of a run, runs/<model>/fold<k>"):
        models.load(tmp_path / "none")
    with pytest.raises(InputError, match=f"no such file: pass the folder of one run, such as {run}"):
        models.load(run.parent)


def test_weights_and_description_come_back(tmp_path, network):
    path = tmp_path / "weights.safetensors"
    write_weights(path, network, describe_network())
    assert read_description(path) == Description("pblstm", SIZES, PHONEMES, CHARACTERS, "utterance")
    torch.manual_seed(7)
    other = create_model("pblstm", **SIZES)
    load_weights(path, other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
    before = path.read_bytes()
    write_weights(path, network, describe_network())
    assert path.read_bytes() == before  # equal weights give equal bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phonemes": ["", "HH"]}, "2 phonemes; expected one string for each of the 5 classes"),
        ({"normalization": None}, "normalization: expected str, found null"),
    ],
)
def test_a_description_that_could_not_be_read_is_not_written(tmp_path, network, changes, message):
    with pytest.raises(ValueError, match=message):
        write_weights(tmp_path / "weights.safetensors", network, describe_network(**changes))
    assert list(tmp_path.iterdir()) == []


class Channels(FrameLayer):
    """The features as they are; their first values serve as scores of the classes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_features = config.features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return x, lengths


def test_the_example_of_load_runs_as_printed(tmp_path, monkeypatch):
    """In a folder with a run whose network reads the phonemes off the features."""
    MODELS.names()
    monkeypatch.setattr(MODELS, "_entries", {})

    @register_model("pblstm")
    def reader(config: ModelConfig) -> nn.Module:
        network = CTCNetwork(config, [Channels(config), Pyramid(28), Pyramid(56)])
        nn.init.zeros_(network.output.bias)
        network.output.weight.data = 10 * torch.eye(41, 28).repeat(1, 4)
        return network

    filler = [f"P{number}" for number in range(36)], [chr(0x100 + number) for number in range(36)]
    description = describe_network(
        config={"features": 28, "classes": 41},
        phonemes=[*PHONEMES, *filler[0]],
        characters=[*CHARACTERS, *filler[1]],
    )
    network = create_model("pblstm", features=28, classes=41)
    write_weights(tmp_path / "runs" / "pblstm" / "fold0" / models.WEIGHTS_FILE, network, description)
    path = np.repeat([0, 1, 2, 3, 4, 0, 0, 0, 0, 0], 8)
    np.save(tmp_path / "utterance.npy", np.eye(28)[path])
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestFinder().find(models.load, "load", globs={})[0]
    assert len(example.examples) == 7
    printed: list[str] = []
    failures = doctest.DocTestRunner().run(example, out=printed.append)
    assert failures.failed == 0, "".join(printed)


@pytest.mark.parametrize("dtype", [np.int64, np.float16])
def test_features_of_any_number_type_are_smoothed_alike(dtype):
    """Whole numbers were cut off, and SciPy refuses float16."""
    counts = np.random.default_rng(0).poisson(2.0, (40, 3))
    np.testing.assert_allclose(smoothed(counts.astype(dtype), 2.0), smoothed(counts.astype(np.float32), 2.0), rtol=1e-6)
