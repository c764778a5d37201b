"""Layers that map (x, lengths) to (x, lengths), and in which padding never changes an utterance's output.

Values are `(N, T, D)`, and zero past each utterance's length wherever a layer reads neighbouring frames, so an
utterance has the same output alone as in a batch.
"""

from __future__ import annotations

from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.layers.lengths import Lengths


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Mask of the frames within each utterance: lengths `(N,)` → bool `(N, frames)`."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def zero_padding(x: Tensor, lengths: Lengths | Tensor) -> Tensor:
    """Set the frames past each utterance's end to zero: `(N, T, D)` in and out."""
    return x * Lengths.of(lengths).mask(x.shape[1], x.device)[:, :, None]


@overload
def output_lengths(lengths: Tensor, stride: int) -> Tensor: ...


@overload
def output_lengths(lengths: Lengths, stride: int) -> Lengths: ...


def output_lengths(lengths: Tensor | Lengths, stride: int) -> Tensor | Lengths:
    """Number of frames after a stride: ceil(lengths / stride)."""
    if isinstance(lengths, Lengths):
        return lengths.after(stride)
    return (lengths + stride - 1) // stride


class FrameLayer(nn.Module):
    """Base class of a `CTCNetwork`'s layers: `(N, T, D)`, `(N,)` → `(N, ceil(T / stride), out_features)`, `(N,)`."""

    stride: int = 1
    """Input frames per output frame."""
    out_features: int
    """Values per output frame."""

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """The layer's output and its lengths."""
        raise NotImplementedError


class LockedDropout(nn.Module):
    """Dropout with one mask per utterance and feature, the same for all frames (Gal & Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T, D)` in and out."""
        factors = self.factors(x.shape[0], x)
        return x if factors is None else x * factors

    def factors(self, utterances: int, x: Tensor) -> Tensor | None:
        """Factors for each utterance's features, 0 or 1 / (1 - p): `(N, 1, D)`; None if nothing is dropped.

        `x` `(…, D)` determines the number of features, the type and the device.
        """
        if not self.training or self.p == 0:
            return None
        keep = torch.empty(utterances, 1, x.shape[-1], device=x.device, dtype=x.dtype).bernoulli_(1 - self.p)
        return keep / (1 - self.p)


class FrameNorm(nn.BatchNorm1d):
    """Batch normalisation with statistics over valid frames only, so that padding does not change them.

    If several processes share a batch, the statistics are those of the whole batch.
    """

    # Never None with the default options of BatchNorm1d, which are used here.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(  # type: ignore[override]  # lengths tell which frames are padding
        self, x: Tensor, lengths: Lengths | Tensor
    ) -> Tensor:
        """`(N, T, D)` in and out; zero past each utterance's end."""
        lengths = Lengths.of(lengths)
        shared = self.training and dist.is_available() and dist.is_initialized()
        # In training, PyTorch raises an error for the statistics of a single frame.
        if self.gathers(x) and not shared and not (self.training and lengths.total < 2):
            return self._gathered(x, lengths.rows(x.shape[1]))
        padding = ~lengths.mask(x.shape[1], x.device)[:, :, None]
        if not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x).masked_fill(padding, 0)
        return self._masked(x, padding, lengths.total, shared)

    @staticmethod
    def gathers(x: Tensor) -> bool:
        """Whether valid frames are gathered, which is fastest on the CPU, or masked, which needs no synchronisation."""
        return x.device.type == "cpu"

    def _gathered(self, x: Tensor, rows: Tensor) -> Tensor:
        """Normalise the frames at `rows` of `(N T, D)`."""
        flat = x.flatten(0, 1)
        normed = super().forward(flat.index_select(0, rows))
        return torch.zeros_like(flat, dtype=normed.dtype).index_copy(0, rows, normed).view_as(x)

    def _masked(self, x: Tensor, padding: Tensor, count: int, shared: bool) -> Tensor:
        """Normalise by sums over the `count` frames outside `padding` `(N, T, 1)`: no shape depends on the lengths."""
        values = x.float()
        frames = torch.full((1,), float(count), device=x.device)
        mean = values.masked_fill(padding, 0).sum(dim=(0, 1)) / frames.clamp(min=1)
        squares = (values - mean).masked_fill(padding, 0).square().sum(dim=(0, 1))
        if shared:
            frames, mean, squares = _over_processes(frames, mean, squares)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squares / (frames - 1).clamp(min=1), self.momentum)
        normed = (values - mean) * (squares / frames + self.eps).rsqrt() * self.weight + self.bias
        return normed.masked_fill(padding, 0).to(x.dtype)


def _over_processes(frames: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and sum of squared deviations of all processes' frames, from each process's own: one collective.

    Each process fills one row of a table. Rows are combined as in Chan et al. 1979, because sums of squares suffer from
    cancellation.
    """
    own = torch.cat([frames, mean, squares])
    table = own.new_zeros(dist.get_world_size(), len(own))
    table[dist.get_rank()] = own
    counts, means, sums = _SumOverProcesses.apply(table).split([1, len(mean), len(squares)], dim=1)
    total = counts.sum(dim=0)
    mean = (counts * means).sum(dim=0) / total
    return total, mean, (sums + counts * (means - mean).square()).sum(dim=0)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs.

    torch.distributed.nn.functional.all_reduce does the same, but is deprecated, and its default arguments keep the
    process group alive: the threads of a group that outlives the interpreter sometimes abort the process.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


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

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, ceil(T / stride), channels)`; x must be zero past the lengths, and so is the result."""
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

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
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

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, ceil(T / 2), 2 D)`."""
        x = zero_padding(x, lengths)
        if x.shape[1] % 2:
            x = nn.functional.pad(x, (0, 0, 0, 1))
        return x.reshape(x.shape[0], x.shape[1] // 2, -1), output_lengths(lengths, 2)


class Patches(FrameLayer):
    """Stacks the last `size` frames every `stride` frames: T frames become ceil(T / stride), none is lost.

    Output frame j holds frames (j + 1) stride - size to (j + 1) stride - 1, with zeros before the first and past the
    last. So no output depends on frames later than its own stride, and an utterance shorter than a patch has outputs
    too. Raises ValueError for a size below the stride, which would skip frames.
    """

    def __init__(self, features: int, size: int, stride: int) -> None:
        super().__init__()
        if size < stride:
            raise ValueError(f"patches of {size} frames every {stride} skip frames: expected at least {stride}")
        self.size = size
        self.stride = stride
        self.out_features = size * features

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, ceil(T / stride), size D)`, the values of the earliest frame first."""
        x = zero_padding(x, lengths)
        x = nn.functional.pad(x, (0, 0, self.size - self.stride, -x.shape[1] % self.stride))
        return x.unfold(1, self.size, self.stride).transpose(2, 3).flatten(2), output_lengths(lengths, self.stride)
