"""The CNN-LSTM: residual convolutions do most of the work, followed by a few recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.frames import Convolution, FrameLayer, ResidualConvolution
from models.layers.recurrent import Bidirectional
from models.network import CTCNetwork, ModelConfig
from registry import register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class CNNConfig(ModelConfig):
    """Convolutional subsampling, residual convolutions, then BiLSTM layers."""

    channels: int = number(384, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Width of the convolutions."""
    stride: int = number(3, at_least=1, at_most=100)
    """Input frames per output frame."""
    blocks: int = number(4, at_least=1, at_most=100, search_factor=2)
    """Residual blocks of two convolutions."""
    kernel: int = number(5, at_least=1, at_most=1001, odd=True)
    """Kernel size of the convolutions, in frames; odd."""
    hidden: int = number(384, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Units per recurrent layer and direction."""
    layers: int = number(3, at_least=1, at_most=100, search_factor=2)
    """Number of recurrent layers."""
    dropout: float = number(0.2, at_least=0, below=1, search=(0.0, 0.5))
    """Locked dropout after each recurrent layer; half this rate after each residual block."""


def cnn_lstm_network(config: CNNConfig) -> CTCNetwork:
    """The network; intermediate CTC reads the last convolution."""
    layers: list[FrameLayer] = [
        Convolution(config.features, config.channels // 2, kernel=config.kernel),
        Convolution(config.channels // 2, config.channels, kernel=config.kernel, stride=config.stride),
    ]
    layers += [
        ResidualConvolution(config.channels, kernel=config.kernel, dropout=config.dropout / 2)
        for _ in range(config.blocks)
    ]
    convolutions = len(layers)
    for _ in range(config.layers):
        layers.append(Bidirectional(layers[-1].out_features, config.hidden, dropout=config.dropout))
    return CTCNetwork(config, layers, intermediate_after=convolutions)


@register_model(
    "cnn_lstm_small",
    tags=("recurrent", "convolution", "cpu"),
    channels=128,
    blocks=3,
    hidden=144,
    layers=2,
    dropout=0.1,
)
def cnn_lstm_small(config: CNNConfig) -> nn.Module:
    """3 residual blocks of width 128 at a third of the frame rate, 2 BiLSTM of 144: trains on two CPU cores."""
    return cnn_lstm_network(config)


@register_model("cnn_lstm", tags=("recurrent", "convolution"))
def cnn_lstm(config: CNNConfig) -> nn.Module:
    """4 residual blocks of width 384 at a third of the frame rate, 3 BiLSTM of 384."""
    return cnn_lstm_network(config)


@register_model("cnn_lstm_large", tags=("recurrent", "convolution"), channels=432, hidden=432, dropout=0.3)
def cnn_lstm_large(config: CNNConfig) -> nn.Module:
    """4 residual blocks of width 432 at a third of the frame rate, 3 BiLSTM of 432."""
    return cnn_lstm_network(config)
