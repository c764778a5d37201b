"""Bidirectional LSTM and GRU layers for padded batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers.frames import FrameLayer, LockedDropout, valid
from models.layers.gru_kernel import gru_direction

CELLS: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class Bidirectional(FrameLayer):
    """One bidirectional LSTM or GRU layer over padded batches, equal to `pack_padded_sequence` on every device.

    On the CPU, packing unequal lengths makes the backward pass quadratic in time. There each direction runs as a
    separate layer over the padded batch; the backward direction reads each utterance reversed within its own length, so
    that its padding comes last and does not reach the recurrence. On CUDA, cuDNN's packed kernel is faster.
    """

    def __init__(self, features: int, hidden: int, *, cell: str = "lstm", dropout: float = 0.0) -> None:
        super().__init__()
        self.out_features = 2 * hidden
        self.rnn = CELLS[cell](features, hidden, batch_first=True, bidirectional=True)
        if cell == "lstm":  # a forget-gate bias of 1, so that training starts with long memory (Jozefowicz et al. 2015)
            for suffix in ("", "_reverse"):
                getattr(self.rnn, f"bias_ih_l0{suffix}").data[hidden : 2 * hidden] = 1.0
        # Computes one direction, called with the weights of either; in a tuple, so that it is not a submodule.
        self._direction_layer = (CELLS[cell](features, hidden, batch_first=True, device="meta"),)
        self.dropout = LockedDropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(N, T, D)` → `(N, T, 2 hidden)`; values past an utterance's end are undefined."""
        y = self.packed(x, lengths) if x.is_cuda else self.reversed(x, lengths)
        return self.dropout(y), lengths

    def packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The output computed by `pack_padded_sequence`."""
        sequences = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(sequences)[0], batch_first=True, total_length=x.shape[1])[0]

    def reversed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The output computed by two padded passes. Frames are gathered as rows of `(N T, D)`, which is fastest."""
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
        return torch.func.functional_call(self._direction_layer[0], weights, (x,))[0]
