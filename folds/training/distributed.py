"""One run on several devices: torch DDP under `torchrun`, one process per device, each batch divided among them.

    torchrun --nproc-per-node 4 -m folds.train --model pblstm --fold 0

A batch is the same as on one device, `--batch-frames` in all: process r of n takes its utterances r, r + n, r + 2 n, …
Normalisation statistics and loss are those of the whole batch, so the result does not depend on the number of devices
except for rounding and the random numbers of dropout and masks. Only the first process writes files.
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
    """The processes of one run, seen from this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This process's utterances of a batch; if there are fewer than processes, one to which `weight` gives 0."""
        return batch[self.rank :: self.size] if self.rank < len(batch) else batch[:1]

    def weight(self, batch: np.ndarray) -> float:
        """0 if this process's share is also another one's, else 1."""
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
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """`module` with gradients averaged over all processes."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        # FrameNorm reduces its statistics itself, so buffers are equal without being broadcast.
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


@contextlib.contextmanager
def joined_group(device: str) -> Iterator[ProcessGroup]:
    """The process group of torchrun's environment variables, or this process alone."""
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
    # NCCL reduces on the GPU, Gloo on the CPU.
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
