"""Layers every family is built from; each maps (features, lengths) to (features, lengths) and never lets padding leak.

Features are `(N, T, D)`, zero past each utterance's length wherever a layer looks at neighbouring frames, so an
utterance alone and in a batch give the same output. No model is defined here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def valid(lengths: Tensor, frames: int) -> Tensor:
    """True inside each utterance: bool `(N, frames)` for lengths `(N,)`."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Zero what lies past each utterance's end: `(N, T, D)` in and out."""
    return x * valid(lengths, x.shape[1])[:, :, None]


class LockedDropout(nn.Module):
    """Dropout whose mask is drawn once an utterance and feature, and held over time (Gal & Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, D)` in and out."""
        if not self.training or self.p == 0:
            return x
        keep = torch.empty(x.shape[0], 1, x.shape[2], device=x.device, dtype=x.dtype).bernoulli_(1 - self.p)
        return x * (keep / (1 - self.p))


class FrameNorm(nn.BatchNorm1d):
    """Batch normalisation over valid frames only: statistics that padding cannot move.

    When several processes share a batch, the statistics are those of the whole batch.
    """

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`(N, T, D)` in and out; zero past each utterance's end."""
        rows = valid(lengths, x.shape[1]).flatten().nonzero().squeeze(1)
        flat = x.flatten(0, 1)
        frames = flat.index_select(0, rows)
        shared = self.training and dist.is_available() and dist.is_initialized()
        normed = self._shared(frames) if shared else super().forward(frames)
        return torch.zeros_like(flat, dtype=normed.dtype).index_copy(0, rows, normed).view_as(x)

    def _shared(self, frames: Tensor) -> Tensor:
        """Frames `(M, D)` normalised over the frames of all processes."""
        from torch.distributed.nn.functional import all_reduce  # gradients flow through it

        count = all_reduce(torch.full((1,), float(len(frames)), device=frames.device))
        mean = all_reduce(frames.float().sum(dim=0)) / count
        centred = frames.float() - mean
        variance = all_reduce(centred.square().sum(dim=0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


class Convolution(nn.Module):
    """Convolution over time, norm, SiLU, with a stride: T frames become ceil(T / stride)."""

    def __init__(self, features: int, channels: int, *, kernel: int = 5, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even: the exact output length needs an odd one")
        self.stride = stride
        self.size = channels
        self.conv = nn.Conv1d(features, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = FrameNorm(channels)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, ceil(T / stride), channels)`; x must be zero past the lengths, as the result is."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        lengths = reduced(lengths, self.stride)
        x = nn.functional.silu(self.norm(x, lengths))
        return self.dropout(x), lengths


class ResidualConvolution(nn.Module):
    """Two convolutions around a skip connection, at the same rate and width."""

    def __init__(self, channels: int, *, kernel: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.stride = 1
        self.size = channels
        self.first = Convolution(channels, channels, kernel=kernel)
        self.second = Convolution(channels, channels, kernel=kernel, dropout=dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, channels)` in and out."""
        y, lengths = self.second(*self.first(x, lengths))
        return x + y, lengths


class Pyramid(nn.Module):
    """Joins each pair of adjacent frames (Chan et al. 2016, arXiv 1508.01211): half the frames, twice the width.

    The last frame of an odd utterance is joined with zeros, so T frames become ceil(T / 2) and none is lost.
    """

    stride = 2

    def __init__(self, features: int) -> None:
        super().__init__()
        self.size = 2 * features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, ceil(T / 2), 2 D)`."""
        x = zero_padding(x, lengths)
        if x.shape[1] % 2:
            x = nn.functional.pad(x, (0, 0, 0, 1))
        return x.reshape(x.shape[0], x.shape[1] // 2, -1), reduced(lengths, 2)




def reduced(lengths: Tensor, stride: int) -> Tensor:
    """Frames left after a stride: ceil(lengths / stride)."""
    return (lengths + stride - 1) // stride
