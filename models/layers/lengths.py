"""Frames per utterance of a padded batch, kept on the CPU, with the masks and indices that layers derive from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class Lengths:
    """Frames per utterance `(N,)`, int64 on the CPU.

    Layers read lengths here and never from the device, where each read would wait for all queued work. A layer of
    stride 1 returns the object it was passed, so masks and indices are computed once per frame rate.

    >>> lengths = Lengths(torch.tensor([3, 1]))
    >>> lengths.mask(3, torch.device("cpu")).int().tolist()
    [[1, 1, 1], [1, 0, 0]]
    >>> lengths.after(2).host.tolist()
    [2, 1]
    """

    def __init__(self, lengths: Tensor) -> None:
        self.host = lengths.to("cpu", torch.int64)
        self._on: dict[torch.device, Tensor] = {}
        self._masks: dict[tuple[int, torch.device], Tensor] = {}
        self._rows: dict[int, Tensor] = {}
        self._reversed: dict[tuple[int, torch.device], Tensor] = {}
        self._packings: dict[tuple[int, torch.device], Packing] = {}

    @classmethod
    def of(cls, lengths: Lengths | Tensor) -> Lengths:
        """`lengths` itself, or wrapped if it is a tensor; a tensor on another device is copied to the CPU."""
        return lengths if isinstance(lengths, Lengths) else cls(lengths)

    def after(self, stride: int) -> Lengths:
        """Number of frames after a stride: ceil(lengths / stride)."""
        return self if stride == 1 else Lengths((self.host + stride - 1) // stride)

    @cached_property
    def total(self) -> int:
        """Sum of the lengths."""
        return int(self.host.sum())

    def on(self, device: torch.device) -> Tensor:
        """The lengths `(N,)` on a device."""
        if device not in self._on:
            self._on[device] = to_device(self.host, device)
        return self._on[device]

    def mask(self, frames: int, device: torch.device) -> Tensor:
        """Mask of the frames within each utterance: bool `(N, frames)`."""
        key = frames, device
        if key not in self._masks:
            self._masks[key] = torch.arange(frames, device=device) < self.on(device)[:, None]
        return self._masks[key]

    def rows(self, frames: int) -> Tensor:
        """Indices `(M,)` of the valid frames among the rows `(N frames,)` of a padded batch, on the CPU."""
        if frames not in self._rows:
            mask = self.mask(frames, torch.device("cpu"))
            self._rows[frames] = mask.flatten().nonzero().squeeze(1)
        return self._rows[frames]

    def reversed_rows(self, frames: int, device: torch.device) -> Tensor:
        """Indices `(N frames,)` that reverse each utterance within its length; padding stays where it is."""
        key = frames, device
        if key not in self._reversed:
            lengths = self.on(device)
            time = torch.arange(frames, device=device)
            flipped = torch.where(self.mask(frames, device), lengths[:, None] - 1 - time, time)
            first_rows = torch.arange(len(lengths), device=device)[:, None] * frames
            self._reversed[key] = (flipped + first_rows).flatten()
        return self._reversed[key]

    def packing(self, frames: int, device: torch.device) -> Packing:
        """How to pack a padded batch `(N, frames, D)` on a device."""
        key = frames, device
        if key not in self._packings:
            ends, order = self.host.sort(descending=True, stable=True)
            time, rank = (torch.arange(frames, device="cpu")[:, None] < ends).nonzero(as_tuple=True)
            rows = order[rank] * frames + time
            sizes = torch.bincount(time)
            self._packings[key] = Packing(to_device(rows, device), sizes, len(self.host), frames)
        return self._packings[key]


@dataclass(frozen=True)
class Packing:
    """The order of `torch.nn.utils.rnn.PackedSequence`: all first frames, longest utterance first, then all second."""

    rows: Tensor
    """Row of each packed frame in the padded batch `(N T, D)`: int64 `(M,)` on the batch's device."""
    batch_sizes: Tensor
    """Number of utterances with a frame at each time step: int64, on the CPU."""
    utterances: int
    """Number of utterances N."""
    frames: int
    """Padded number of frames T."""

    def pack(self, x: Tensor) -> Tensor:
        """`(N, T, D)` → `(M, D)`."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, packed: Tensor) -> Tensor:
        """`(M, D)` → `(N, T, D)`, zero past each utterance's end."""
        size = packed.shape[1]
        flat = packed.new_zeros(self.utterances * self.frames, size).index_copy(0, self.rows, packed)
        return flat.view(self.utterances, self.frames, size)

    def by_frame(self, values: Tensor) -> Tensor:
        """Values per utterance `(N, D)` repeated for each of its frames: `(M, D)`."""
        return values.index_select(0, self.rows.div(self.frames, rounding_mode="floor"))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy values from the CPU to a device without blocking the host."""
    if device.type == "cuda":
        values = values.pin_memory()  # a copy from pageable memory to CUDA waits for the device
    return values.to(device, non_blocking=True)
