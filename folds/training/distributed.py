"""One run on several devices: torch DDP under `torchrun`, a process a device, every batch shared among them.

    torchrun --nproc-per-node 4 -m folds.train --model pblstm --fold 0

A batch stays what it is on one device, `--batch-frames` in all: each process takes every so many-th utterance of it,
and normalisation and loss are those of the whole batch, so the result does not depend on the number of devices beyond
rounding and the dropout drawn. The first process alone writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class ProcessGroup:
    """This process among its fellows."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This process's utterances of a batch; where there are too few to go round, one that `weight` discounts."""
        return batch[self.rank :: self.size] if self.rank < len(batch) else batch[:1]

    def weight(self, batch: np.ndarray) -> float:
        """0 for a share that is another process's too, else 1."""
        return float(self.rank < len(batch))

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(summed)
        return summed.tolist()

    def same(self, value: float) -> float:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=_device())
        dist.broadcast(shared, src=0)
        return float(shared)

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` with gradients averaged over all processes."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        # Statistics of FrameNorm are reduced by itself, so buffers agree without being sent.
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


@contextlib.contextmanager
def joined_group(device: str) -> Iterator[ProcessGroup]:
    """The group torchrun's environment names, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    group = ProcessGroup(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(group.local_rank)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group()


def _device() -> torch.device:
    # NCCL reduces on the device, Gloo on the CPU.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
