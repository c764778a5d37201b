"""The pyramidal BiLSTM: a BiLSTM at a high frame rate, then pyramid reductions with BiLSTM layers after each.

Follows the listener of Chan et al. 2016 (arXiv 1508.01211), with a convolution in front: a recurrent layer at the full
frame rate costs the most and gains the least.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.frames import Convolution, FrameLayer, Pyramid
from models.layers.recurrent import Bidirectional
from models.network import CTCNetwork, ModelConfig
from registry import register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(ModelConfig):
    """A stride-2 convolution, a BiLSTM, then pyramid reductions with BiLSTM layers after each."""

    channels: int = number(192, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Width of the convolution."""
    stride: int = number(2, at_least=1, at_most=100)
    """Stride of the convolution."""
    kernel: int = number(7, at_least=1, at_most=1001, odd=True)
    """Kernel size of the convolution, in frames; odd."""
    bottom: int = number(256, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Units per direction of the layer before the pyramid."""
    hidden: int = number(384, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Units per direction of the layers in the pyramid."""
    reductions: int = number(1, at_least=0, at_most=10)
    """Pyramid reductions: each halves the frame rate. Utterances need at least as many output frames as labels."""
    layers: int = number(2, at_least=1, at_most=100, search_factor=2)
    """BiLSTM layers after each reduction."""
    dropout: float = number(0.2, at_least=0, below=1, search=(0.0, 0.5))
    """Locked dropout after each recurrent layer."""


def pyramid_network(config: PyramidConfig) -> CTCNetwork:
    """The network of `pyramid_layers`."""
    layers, intermediate_after = pyramid_layers(config)
    return CTCNetwork(config, layers, intermediate_after)


def pyramid_layers(config: PyramidConfig) -> tuple[list[FrameLayer], int]:
    """The layers, and how many of them precede intermediate CTC: up to the first BiLSTM of the pyramid."""
    layers: list[FrameLayer] = [
        Convolution(config.features, config.channels, kernel=config.kernel, stride=config.stride),
        Bidirectional(config.channels, config.bottom, dropout=config.dropout),
    ]
    for _ in range(config.reductions):
        layers.append(Pyramid(layers[-1].out_features))
        for _ in range(config.layers):
            layers.append(Bidirectional(layers[-1].out_features, config.hidden, dropout=config.dropout))
    return layers, 4 if config.reductions else 2


@register_model("pblstm_small", tags=("recurrent", "pyramid", "cpu"), channels=128, bottom=96, hidden=160, dropout=0.1)
def pblstm_small(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 96, one pyramid reduction, 2 BiLSTM of 160: trains on two CPU cores."""
    return pyramid_network(config)


@register_model("pblstm", tags=("recurrent", "pyramid"), layers=3, dropout=0.3)
def pblstm(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 256, one pyramid reduction, 3 BiLSTM of 384."""
    return pyramid_network(config)


@register_model("pblstm_large", tags=("recurrent", "pyramid"), bottom=320, hidden=448, layers=3, dropout=0.35)
def pblstm_large(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 320, one pyramid reduction, 3 BiLSTM of 448."""
    return pyramid_network(config)
