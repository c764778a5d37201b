"""LSTM and GRU layers in both directions, or in one, for padded batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from models.layers.frames import FrameLayer, LockedDropout
from models.layers.gru_kernel import gru_direction
from models.layers.lengths import Lengths, Packing

CELLS: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class PackedFrames:
    """The valid frames of a batch in the order of a `PackedSequence`."""

    values: Tensor
    """`(M, D)`, M the sum of the lengths."""
    packing: Packing

    @classmethod
    def of(cls, x: Tensor | PackedFrames, lengths: Lengths) -> PackedFrames:
        """The frames of a padded batch `(N, T, D)`, or `x` if it is packed already."""
        if isinstance(x, PackedFrames):
            return x
        packing = lengths.packing(x.shape[1], x.device)
        return cls(packing.pack(x), packing)


def padded(x: Tensor | PackedFrames) -> Tensor:
    """The frames as a padded batch `(N, T, D)`."""
    return x.packing.unpack(x.values) if isinstance(x, PackedFrames) else x


class Bidirectional(FrameLayer):
    """One bidirectional LSTM or GRU layer over padded batches, equal to `pack_padded_sequence` on every device.

    On the CPU, packing unequal lengths makes the backward pass quadratic in time. There each direction runs as a
    separate layer over the padded batch; the backward direction reads each utterance reversed within its own length, so
    that its padding comes last and does not reach the recurrence. On CUDA, cuDNN's packed kernel is faster; layers in
    sequence hand packed frames to each other, and `CTCNetwork` packs them once.
    """

    def __init__(self, features: int, hidden: int, *, cell: str = "lstm", dropout: float = 0.0) -> None:
        super().__init__()
        self.out_features = 2 * hidden
        self.rnn = CELLS[cell](features, hidden, batch_first=True, bidirectional=True)
        _start_with_long_memory(self.rnn)
        # Computes either direction when called with its weights; in a tuple, so that it is not a submodule.
        self._direction_layer = (CELLS[cell](features, hidden, batch_first=True, device="meta"),)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Lengths | Tensor) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, T, 2 hidden)`; values past an utterance's end are undefined."""
        lengths = Lengths.of(lengths)
        if self.packs(x):
            return padded(self.over_packed(PackedFrames.of(x, lengths))), lengths
        return self.dropout(self.reversed(x, lengths)), lengths

    @staticmethod
    def packs(x: Tensor) -> bool:
        """Whether frames are packed, which is fastest on CUDA, or computed in two padded passes."""
        return x.is_cuda

    def over_packed(self, x: PackedFrames) -> PackedFrames:
        """The layer's output for packed frames, dropout included: `(M, D)` → `(M, 2 hidden)`."""
        y = self.rnn(PackedSequence(x.values, x.packing.batch_sizes))[0].data
        factors = self.dropout.factors(x.packing.utterances, y)
        if factors is not None:
            y = y * x.packing.by_frame(factors[:, 0])
        return PackedFrames(y, x.packing)

    def reversed(self, x: Tensor, lengths: Lengths | Tensor) -> Tensor:
        """The output without dropout, computed in two padded passes.

        Frames are gathered as rows of `(N T, D)`, which is fastest.
        """
        batch, frames, _ = x.shape
        rows = Lengths.of(lengths).reversed_rows(frames, x.device)

        def flip(y: Tensor) -> Tensor:
            return y.flatten(0, 1).index_select(0, rows).view(batch, frames, -1)

        return torch.cat([self._direction(x, ""), flip(self._direction(flip(x), "_reverse"))], dim=2)

    def _direction(self, x: Tensor, suffix: str) -> Tensor:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = {name: getattr(self.rnn, name + suffix) for name in names}
        if isinstance(self.rnn, nn.GRU) and x.device.type == "cpu":
            return gru_direction(x.transpose(0, 1), *weights.values()).transpose(0, 1)
        return torch.func.functional_call(self._direction_layer[0], weights, (x,))[0]


class Unidirectional(FrameLayer):
    """One LSTM or GRU layer that reads frames in order: no output depends on later frames.

    Padding comes last, so it needs neither packing nor masks.
    """

    def __init__(self, features: int, hidden: int, *, cell: str = "gru", dropout: float = 0.0) -> None:
        super().__init__()
        self.out_features = hidden
        self.rnn = CELLS[cell](features, hidden, batch_first=True)
        _start_with_long_memory(self.rnn)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Lengths | Tensor) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, T, hidden)`; values past an utterance's end are undefined."""
        if isinstance(self.rnn, nn.GRU) and x.device.type == "cpu":
            y = gru_direction(x.transpose(0, 1), *self.rnn.parameters()).transpose(0, 1)
        else:
            y = self.rnn(x)[0]
        return self.dropout(y), Lengths.of(lengths)


def _start_with_long_memory(rnn: nn.RNNBase) -> None:
    """Set the forget gates' biases of an LSTM to 1 (Jozefowicz et al. 2015)."""
    if isinstance(rnn, nn.LSTM):
        for name, bias in rnn.named_parameters():
            if name.startswith("bias_ih"):
                bias.data[rnn.hidden_size : 2 * rnn.hidden_size] = 1.0
