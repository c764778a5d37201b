"""The LSTM family: subsampling convolutions, then bidirectional LSTM layers. `gru.py` has the GRU version."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.frames import Convolution, FrameLayer
from models.layers.recurrent import Bidirectional
from models.network import CTCNetwork, ModelConfig
from registry import InputError, register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(ModelConfig):
    """Convolutional subsampling, then bidirectional recurrent layers."""

    channels: tuple[int, ...] = number((128, 256), at_least=1, at_most=16_384, scale="log")
    """Width of each convolution."""
    strides: tuple[int, ...] = number((2, 2), at_least=1, at_most=100)
    """Stride of each convolution."""
    kernel: int = number(5, at_least=1, at_most=1001, odd=True)
    """Kernel size of the convolutions, in frames; odd."""
    hidden: int = number(384, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Units per recurrent layer and direction."""
    layers: int = number(3, at_least=1, at_most=100, search_factor=2)
    """Number of recurrent layers."""
    dropout: float = number(0.2, at_least=0, below=1, search=(0.0, 0.5))
    """Locked dropout after each recurrent layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) != len(self.strides):
            found = f"--channels {self.channels} --strides {self.strides}"
            raise InputError(f"{found}: expected one stride per convolution")


def recurrent_network(config: RecurrentConfig, cell: str) -> CTCNetwork:
    """The network with `cell` "lstm" or "gru"; intermediate CTC reads the first recurrent layer."""
    layers: list[FrameLayer] = []
    size = config.features
    for channels, stride in zip(config.channels, config.strides, strict=True):
        layers.append(Convolution(size, channels, kernel=config.kernel, stride=stride))
        size = channels
    for _ in range(config.layers):
        layers.append(Bidirectional(size, config.hidden, cell=cell, dropout=config.dropout))
        size = layers[-1].out_features
    return CTCNetwork(config, layers, intermediate_after=len(config.channels) + 1)


@register_model("lstm_small", tags=("recurrent", "cpu"), hidden=160, dropout=0.1)
def lstm_small(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 3 BiLSTM of 160: trains on two CPU cores."""
    return recurrent_network(config, "lstm")


@register_model("lstm", tags="recurrent", channels=(256, 384), hidden=384, layers=4, dropout=0.3)
def lstm(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiLSTM of 384."""
    return recurrent_network(config, "lstm")


@register_model("lstm_large", tags="recurrent", channels=(256, 512), hidden=464, layers=4, dropout=0.35)
def lstm_large(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiLSTM of 464: just under 20 M parameters."""
    return recurrent_network(config, "lstm")
