"""The pyramidal BiLSTM: recurrence at a high frame rate first, then pairs of frames are joined.

After the listener of Chan et al. 2016 (arXiv 1508.01211), with a convolution in front, since the lowest layer at the
full frame rate costs most and gains least.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.layers.frames import Convolution, Pyramid
from models.layers.recurrent import Bidirectional
from models.network import CTCNetwork, ModelConfig
from registry import register_model


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(ModelConfig):
    """A stride-2 convolution, a BiLSTM, then pyramid reductions with BiLSTM layers after each."""

    channels: int = 192
    """Width of the convolution."""
    stride: int = 2
    """Stride of the convolution."""
    kernel: int = 7
    """Frames the convolution sees; odd."""
    bottom: int = 256
    """Units a direction of the layer before the pyramid."""
    hidden: int = 384
    """Units a direction of the layers in the pyramid."""
    reductions: int = 1
    """Pyramid reductions: each halves the frame rate. Utterances need as many output frames as labels."""
    layers: int = 2
    """BiLSTM layers after each reduction."""
    dropout: float = 0.2
    """Locked dropout after each recurrent layer."""


def pyramid(config: PyramidConfig) -> CTCNetwork:
    """The network of `pyramid_layers`."""
    return CTCNetwork(config, *pyramid_layers(config))


def pyramid_layers(config: PyramidConfig) -> tuple[list[nn.Module], int]:
    """The chain, and after how many of its layers intermediate CTC reads: after the first of the pyramid."""
    chain: list[nn.Module] = [
        Convolution(config.features, config.channels, kernel=config.kernel, stride=config.stride),
        Bidirectional(config.channels, config.bottom, dropout=config.dropout),
    ]
    for _ in range(config.reductions):
        chain.append(Pyramid(chain[-1].size))
        for _ in range(config.layers):
            chain.append(Bidirectional(chain[-1].size, config.hidden, dropout=config.dropout))
    return chain, 4 if config.reductions else 2


@register_model(
    "pblstm_small", tags=("recurrent", "pyramid", "cpu"), channels=128, bottom=96, hidden=160, dropout=0.1
)
def pblstm_small(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 96, one pyramid reduction, 2 BiLSTM of 160: trains on two CPU cores."""
    return pyramid(config)


@register_model("pblstm", tags=("recurrent", "pyramid"), layers=3, dropout=0.3)
def pblstm(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 256, one pyramid reduction, 3 BiLSTM of 384."""
    return pyramid(config)


@register_model("pblstm_large", tags=("recurrent", "pyramid"), bottom=320, hidden=448, layers=3, dropout=0.35)
def pblstm_large(config: PyramidConfig) -> nn.Module:
    """Stride-2 convolution, BiLSTM of 320, one pyramid reduction, 3 BiLSTM of 448."""
    return pyramid(config)
