"""`lstm` and `gru` share this chain: convolutions that subsample, then bidirectional recurrent layers.

Here it is registered with LSTM cells; `gru.py` has the GRU's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.frames import Convolution
from models.layers.recurrent import Bidirectional
from models.network import CTCNetwork, ModelConfig
from registry import InputError, register_model


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(ModelConfig):
    """Convolutional subsampling, then bidirectional recurrent layers."""

    channels: tuple[int, ...] = (128, 256)
    """Width of each convolution."""
    strides: tuple[int, ...] = (2, 2)
    """Stride of each convolution."""
    kernel: int = 5
    """Frames each convolution sees; odd."""
    hidden: int = 384
    """Units of each recurrent layer and direction."""
    layers: int = 3
    """Recurrent layers."""
    dropout: float = 0.2
    """Locked dropout after each recurrent layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.channels) != len(self.strides):
            raise InputError(f"channels {self.channels} and strides {self.strides}: one stride a convolution is needed")


def recurrent(config: RecurrentConfig, cell: str) -> CTCNetwork:
    """The chain with `cell` "lstm" or "gru"; intermediate CTC reads after the first recurrent layer."""
    chain: list[nn.Module] = []
    size = config.features
    for channels, stride in zip(config.channels, config.strides, strict=True):
        chain.append(Convolution(size, channels, kernel=config.kernel, stride=stride))
        size = channels
    for _ in range(config.layers):
        chain.append(Bidirectional(chain[-1].size if chain else size, config.hidden, cell=cell, dropout=config.dropout))
    return CTCNetwork(config, chain, tap=len(config.channels) + 1)


@register_model("lstm_small", tags=("recurrent", "cpu"), hidden=160, dropout=0.1)
def lstm_small(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 3 BiLSTM of 160: trains on two CPU cores."""
    return recurrent(config, "lstm")


@register_model("lstm", tags=("recurrent",), channels=(256, 384), hidden=384, layers=4, dropout=0.3)
def lstm(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiLSTM of 384."""
    return recurrent(config, "lstm")


@register_model("lstm_large", tags=("recurrent",), channels=(256, 512), hidden=464, layers=4, dropout=0.35)
def lstm_large(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiLSTM of 464: close under 20 M parameters."""
    return recurrent(config, "lstm")
