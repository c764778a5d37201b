"""Layers that map (x, lengths) to (x, lengths), and in which padding never changes an utterance's output.

Values are `(N, T, D)`, and zero past each utterance's length wherever a layer reads neighbouring frames, so an
utterance alone and in a batch has the same output.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Mask of the frames within each utterance: lengths `(N,)` → bool `(N, frames)`."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Set the frames past each utterance's end to zero: `(N, T, D)` in and out."""
    return x * valid(lengths, x.shape[1])[:, :, None]


def output_lengths(lengths: Tensor, stride: int) -> Tensor:
    """Number of frames after a stride: ceil(lengths / stride)."""
    return (lengths + stride - 1) // stride


class FrameLayer(nn.Module):
    """Base class of a `CTCNetwork`'s layers: `(N, T, D)`, `(N,)` → `(N, ceil(T / stride), out_features)`, `(N,)`."""

    stride: int = 1
    """Input frames per output frame."""
    out_features: int
    """Values per output frame."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output and its lengths."""
        raise NotImplementedError


class LockedDropout(nn.Module):
    """Dropout with one mask per utterance and feature, the same for all frames (Gal & Ghahramani 2016)."""

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
    """Batch normalisation with statistics over valid frames only, so that padding does not change them.

    If several processes share a batch, the statistics are those of the whole batch.
    """

    # Never None with the default options of BatchNorm1d, which are used here.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]  # padding is known by lengths
        """`(N, T, D)` in and out; zero past each utterance's end."""
        rows = valid(lengths, x.shape[1]).flatten().nonzero().squeeze(1)
        flat = x.flatten(0, 1)
        frames = flat.index_select(0, rows)
        shared = self.training and dist.is_available() and dist.is_initialized()
        normed = self._shared(frames) if shared else super().forward(frames)
        return torch.zeros_like(flat, dtype=normed.dtype).index_copy(0, rows, normed).view_as(x)

    def _shared(self, frames: Tensor) -> Tensor:
        """Normalise frames `(M, D)` by the statistics of the frames of all processes."""
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


class Convolution(FrameLayer):
    """Convolution over time, norm and SiLU, with a stride: T frames become ceil(T / stride)."""

    def __init__(self, features: int, channels: int, *, kernel: int = 5, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even: expected an odd one, so that output lengths are exact")
        self.stride = stride
        self.out_features = channels
        self.conv = nn.Conv1d(features, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = FrameNorm(channels)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, ceil(T / stride), channels)`; x must be zero past the lengths, as the result is."""
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        lengths = output_lengths(lengths, self.stride)
        x = nn.functional.silu(self.norm(x, lengths))
        return self.dropout(x), lengths


class ResidualConvolution(FrameLayer):
    """Two convolutions with a skip connection around them, at the same frame rate and width."""

    def __init__(self, channels: int, *, kernel: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.out_features = channels
        self.first = Convolution(channels, channels, kernel=kernel)
        self.second = Convolution(channels, channels, kernel=kernel, dropout=dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, channels)` in and out."""
        y, lengths = self.second(*self.first(x, lengths))
        return x + y, lengths


class Pyramid(FrameLayer):
    """Concatenates each pair of adjacent frames (Chan et al. 2016, arXiv 1508.01211): half the frames, twice the width.

    The last frame of an odd utterance is paired with zeros, so T frames become ceil(T / 2) and none is lost.
    """

    stride = 2

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_features = 2 * features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, ceil(T / 2), 2 D)`."""
        x = zero_padding(x, lengths)
        if x.shape[1] % 2:
            x = nn.functional.pad(x, (0, 0, 0, 1))
        return x.reshape(x.shape[0], x.shape[1] // 2, -1), output_lengths(lengths, 2)
