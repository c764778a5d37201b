"""The Conformer (Gulati et al. 2020, arXiv 2005.08100): self-attention for distant frames, convolution for near ones.

Positions are encoded by rotating queries and keys (RoPE; Su et al. 2021, arXiv 2104.09864), not by the paper's relative
encodings. Rotations are relative too, and work with PyTorch's fused attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.frames import Convolution, FrameLayer, FrameNorm, LockedDropout, zero_padding
from models.layers.lengths import Lengths
from models.network import CTCNetwork, ModelConfig
from registry import InputError, register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class ConformerConfig(ModelConfig):
    """Convolutional subsampling, then Conformer blocks."""

    strides: tuple[int, ...] = number((2, 2), at_least=1, at_most=100)
    """Stride of each subsampling convolution."""
    size: int = number(256, at_least=1, at_most=16_384, scale="log")
    """Width of the blocks."""
    heads: int = number(4, at_least=1, at_most=256, scale="log")
    """Attention heads; the width of a head, size / heads, must be even."""
    blocks: int = number(8, at_least=1, at_most=100, search_factor=2)
    """Number of Conformer blocks."""
    expansion: int = number(4, at_least=1, at_most=64)
    """Width of the feed-forward layers, as a multiple of size."""
    kernel: int = number(15, at_least=1, at_most=1001, odd=True)
    """Kernel size of the depthwise convolution, in frames; odd."""
    dropout: float = number(0.1, at_least=0, below=1, search=(0.0, 0.5))
    """Locked dropout after each module of a block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strides:
            raise InputError("--strides: none given; expected one or more, since the convolutions set the width")
        if self.size % (2 * self.heads):
            raise InputError(f"--size {self.size} --heads {self.heads}: size must be a multiple of twice the heads")


class Attention(nn.Module):
    """Multi-head self-attention with rotated queries and keys; no frame attends to padding."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.input = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, lengths: Lengths) -> Tensor:
        """`(N, T, D)` in and out."""
        batch, frames, size = x.shape
        projected = self.input(self.norm(x)).view(batch, frames, 3, self.heads, size // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mask = lengths.mask(frames, x.device)[:, None, None, :]
        context = functional.scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=mask)
        return self.output(context.transpose(1, 2).reshape(batch, frames, size))


def rotated(x: Tensor) -> Tensor:
    """Rotate pairs of values of `(N, H, T, D)` by angles proportional to time: products then depend on distances."""
    half = x.shape[3] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[2], device=x.device)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=3)


class ConvolutionModule(nn.Module):
    """The paper's convolution module: gated linear unit, depthwise convolution, norm, SiLU."""

    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(size)
        self.gate = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size, bias=False)
        self.norm = FrameNorm(size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, lengths: Lengths) -> Tensor:
        """`(N, T, D)` in and out."""
        x = zero_padding(functional.glu(self.gate(self.before(x)), dim=2), lengths)
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.output(functional.silu(self.norm(x, lengths)))


class ConformerBlock(FrameLayer):
    """Half-step feed-forward, attention, convolution and half-step feed-forward, each with a skip connection."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        size = self.out_features = config.size

        def feed_forward() -> nn.Module:
            width = config.expansion * size
            return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.SiLU(), nn.Linear(width, size))

        self.first, self.last = feed_forward(), feed_forward()
        self.attention = Attention(size, config.heads)
        self.convolution = ConvolutionModule(size, config.kernel)
        self.norm = nn.LayerNorm(size)
        self.dropout = LockedDropout(config.dropout)

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` in and out."""
        x = x + 0.5 * self.dropout(self.first(x))
        x = x + self.dropout(self.attention(x, lengths))
        x = x + self.dropout(self.convolution(x, lengths))
        x = x + 0.5 * self.dropout(self.last(x))
        return self.norm(x), lengths


def conformer_network(config: ConformerConfig) -> CTCNetwork:
    """The network; intermediate CTC reads the middle block."""
    convolutions: list[FrameLayer] = []
    size = config.features
    for stride in config.strides:
        convolutions.append(Convolution(size, config.size, stride=stride))
        size = config.size
    blocks = [ConformerBlock(config) for _ in range(config.blocks)]
    middle = len(convolutions) + (config.blocks + 1) // 2
    return CTCNetwork(config, [*convolutions, *blocks], intermediate_after=middle)


@register_model("conformer_small", tags=("attention", "convolution", "cpu"), size=144, blocks=4, expansion=2)
def conformer_small(config: ConformerConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 Conformer blocks of width 144: trains on two CPU cores."""
    return conformer_network(config)


@register_model("conformer", tags=("attention", "convolution"))
def conformer(config: ConformerConfig) -> nn.Module:
    """Two stride-2 convolutions, 8 Conformer blocks of width 256."""
    return conformer_network(config)


@register_model("conformer_large", tags=("attention", "convolution"), size=320, blocks=8, heads=5)
def conformer_large(config: ConformerConfig) -> nn.Module:
    """Two stride-2 convolutions, 8 Conformer blocks of width 320: just under 20 M parameters."""
    return conformer_network(config)
