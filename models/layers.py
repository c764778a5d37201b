"""Layers every family is built from; each maps (features, lengths) to (features, lengths) and never lets padding leak.

Features are `(N, T, D)`, zero past each utterance's length wherever a layer looks at neighbouring frames, so an
utterance alone and in a batch give the same output. No model is defined here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .gru_kernel import gru_direction

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


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


class Bidirectional(nn.Module):
    """One bidirectional LSTM or GRU layer over padded batches, equal to `pack_padded_sequence` on every device.

    Packing unequal lengths costs a backward pass quadratic in time on CPU, so there each direction runs as a layer
    of its own over the padded batch: the backward direction is fed each utterance reversed within its own length, which
    leaves its padding behind it, where a recurrence cannot see it. On CUDA cuDNN's packed kernel is the fast one.
    """

    def __init__(self, features: int, hidden: int, *, cell: str = "lstm", dropout: float = 0.0) -> None:
        super().__init__()
        self.stride = 1
        self.size = 2 * hidden
        self.rnn = CELLS[cell](features, hidden, batch_first=True, bidirectional=True)
        if cell == "lstm":  # begin by remembering (Jozefowicz et al. 2015): forget-gate bias of 1
            for suffix in ("", "_reverse"):
                getattr(self.rnn, f"bias_ih_l0{suffix}").data[hidden : 2 * hidden] = 1.0
        # One direction's computation, lent the weights of either; in a tuple, so that it is no submodule.
        self._one = (CELLS[cell](features, hidden, batch_first=True, device="meta"),)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, T, 2 hidden)`; what lies past an utterance's end is not defined."""
        y = self.packed(x, lengths) if x.is_cuda else self.reversed(x, lengths)
        return self.dropout(y), lengths

    def packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The layer by `pack_padded_sequence`."""
        rows = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(rows)[0], batch_first=True, total_length=x.shape[1])[0]

    def reversed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The layer by two padded passes; every frame is gathered whole, as a row of `(N T, D)`."""
        batch, frames, _ = x.shape
        time = torch.arange(frames, device=x.device)
        flipped = torch.where(valid(lengths, frames), lengths[:, None] - 1 - time, time)
        rows = (flipped + torch.arange(batch, device=x.device)[:, None] * frames).flatten()

        def flip(y: Tensor) -> Tensor:
            return y.flatten(0, 1).index_select(0, rows).view(batch, frames, -1)

        return torch.cat([self._direction(x, ""), flip(self._direction(flip(x), "_reverse"))], dim=2)

    def _direction(self, x: Tensor, suffix: str) -> Tensor:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = {name: getattr(self.rnn, name + suffix) for name in names}
        if isinstance(self.rnn, nn.GRU) and x.device.type == "cpu":
            return gru_direction(x.transpose(0, 1), *weights.values()).transpose(0, 1)
        return torch.func.functional_call(self._one[0], weights, (x,))[0]


def reduced(lengths: Tensor, stride: int) -> Tensor:
    """Frames left after a stride: ceil(lengths / stride)."""
    return (lengths + stride - 1) // stride
