"""Configs and the network of layers in sequence; what importing the package does, and the examples in docstrings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from models import CTCNetwork, ModelConfig
from models.layers import Convolution, Lengths, LockedDropout, zero_padding
from models.pblstm import PyramidConfig
from registry import InputError, create_model

SIZES = {"features": 3, "classes": 4}


@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    width: int = 8
    gated: bool = False
    """A truth value is not a number that has to be at least 1."""
    kernel: int = 3
    dropout: float = 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features 0 and classes 4: at least 1 and 2 are needed"),
        ({"classes": 1}, "features 3 and classes 1: at least 1 and 2 are needed"),
        ({"width": 0}, "--width 0: expected at least 1"),
        ({"kernel": 4}, "--kernel 4: expected an odd number, so that output lengths are exact"),
        ({"dropout": 1.0}, r"--dropout 1.0: expected a fraction in \[0, 1\)"),
        ({"dropout": float("nan")}, "--dropout nan: expected a fraction"),
    ],
)
def test_a_config_that_no_model_can_have_is_one_line(options, message):
    Config(**SIZES)
    with pytest.raises(InputError, match=message):
        Config(**SIZES | options)


def test_only_fields_with_such_bounds_may_be_zero():
    assert PyramidConfig(**SIZES, reductions=0).reductions == 0
    with pytest.raises(InputError, match="--reductions -1: expected 0 or more"):
        PyramidConfig(**SIZES, reductions=-1)
    with pytest.raises(InputError, match="--layers 0: expected at least 1"):
        PyramidConfig(**SIZES, layers=0)


def test_a_network_needs_no_intermediate_output_layer():
    network = CTCNetwork(Config(**SIZES), [Convolution(3, 8, stride=2), Convolution(8, 8, stride=3)])
    outputs = network.training_outputs(torch.randn(2, 13, 3), torch.tensor([13, 6]))
    assert network.stride == 6 and outputs.lengths.tolist() == [3, 1] and outputs.states.shape == (2, 3, 8)
    assert outputs.middle is None and not network.has_intermediate
    network.use_intermediate(False)
    with pytest.raises(InputError, match="pass --intermediate 0"):
        network.use_intermediate(True)
    network.start_from_prior(torch.tensor([0.7, 0.1, 0.1, 0.1]).log())
    assert network.output.bias.exp().tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])


def test_the_intermediate_output_layer_reads_the_layer_before_it():
    layers = [Convolution(3, 8, stride=2), Convolution(8, 8, stride=3)]
    network = CTCNetwork(Config(**SIZES), layers, intermediate_after=1).eval()
    network.start_from_prior(torch.tensor([0.7, 0.1, 0.1, 0.1]).log())
    x, ends = torch.randn(2, 13, 3), torch.tensor([13, 6])
    states, lengths = layers[0](zero_padding(x, ends), Lengths(ends))
    outputs = network.training_outputs(x, ends)
    assert outputs.middle_lengths.tolist() == lengths.host.tolist() == [7, 3]
    torch.testing.assert_close(outputs.middle, network.middle(states).log_softmax(dim=2))
    for layer in (network.output, network.middle):
        assert layer.bias.exp().tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("used", [True, False])
def test_the_intermediate_output_layer_is_trained_if_it_is_used(used):
    network = create_model("lstm_small", **SIZES, hidden=4)
    network.use_intermediate(used)
    assert network.has_intermediate and network.middle.weight.requires_grad == used
    assert network.output.weight.requires_grad


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("cnn_lstm_small", [0, 0, *[0, 0.2] * 3, 0.4, 0.4]),
        ("conformer_small", [0, 0, *[0.4] * 4]),
        ("gru_small", [0, 0, *[0.4] * 3]),
        ("gru_stream_small", [0.1, *[0.4] * 3]),
        ("las_small", [0, *[0.4] * 3, 0.4]),
        ("lstm_small", [0, 0, *[0.4] * 3]),
        ("pblstm_small", [0, *[0.4] * 3]),
    ],
)
def test_layers_have_the_rate_of_dropout_of_the_config(name, rates):
    """Convolutions that subsample have none, and the speller that of its listener."""
    model = create_model(name, **SIZES, dropout=0.4)
    assert [module.p for module in model.modules() if isinstance(module, LockedDropout)] == pytest.approx(rates)


def test_importing_the_package_imports_no_family_and_draws_no_random_numbers():
    code = (
        "import sys, torch; before = torch.get_rng_state(); import models; "
        "assert torch.equal(before, torch.get_rng_state()); "
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('folds', 'ensemble', 'submit')), "
        "*(name for name in ('models.lstm', 'models.las') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
