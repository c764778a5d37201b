"""One run on several devices: torch DDP under `torchrun`, one process per device, each batch divided among them.

    torchrun --nproc-per-node 4 -m folds.train --model pblstm --fold 0

On CPUs a batch is the same as on one device, `--batch-frames` in total; on CUDA it is that many frames per process.
Process r of n takes its utterances r, r + n, r + 2 n, … Normalisation statistics and loss are those of the whole batch,
so for the same batches the result does not depend on the number of devices, except for rounding and the random numbers
of dropout and masks. (In a batch of fewer utterances than processes, at most the last one of an epoch, the statistics
count one utterance more than once.) Only the first process writes files.

The processes exchange gradients and totals once per step, even if a step has several batches, and in each batch the
statistics of every normalisation layer, once forward and once backward.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from folds.training.rendezvous import FIND_S, meet, variable
from folds.training.signals import Stopped
from registry.console import counted
from registry.errors import InputError, MachineFault, one_line

# What Gloo and NCCL raise in a collective when another process has ended.
_PEER_IS_GONE = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
COLLECTIVE_TIMEOUT = datetime.timedelta(days=7)
"""How long a process waits for another one during training. PyTorch's default of 30 minutes can be too short."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one run, from the perspective of this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def local_size(self) -> int:
        """The number of processes on this machine."""
        return variable("LOCAL_WORLD_SIZE", 1) if self.size > 1 else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This process's utterances of a batch; if there are fewer than processes, one whose `weight` may be 0."""
        return batch[self.rank :: self.size] if self.rank < len(batch) else batch[:1]

    def weight(self, batch: np.ndarray) -> float:
        """0 if this process's share is also another one's, else 1."""
        return float(self.rank < len(batch))

    def step_totals(self, loss: Tensor, stop: bool, seconds: float) -> tuple[Tensor, bool, float]:
        """(`loss` summed over the processes, on its device; whether any should stop; the first process's seconds).

        One collective if the loss is on the CPU, else two: the loss is summed on the device without waiting for it.
        """
        if self.size == 1:
            return loss, stop, seconds
        values = torch.tensor([0.0, float(stop), seconds if self.first else 0.0], dtype=torch.float64)
        loss = loss.clone()
        on_host = loss.device.type == "cpu"
        if on_host:
            values[0] = loss
        else:
            dist.all_reduce(loss)
        dist.all_reduce(values)
        if on_host:
            loss.copy_(values[0])
        return loss, bool(values[1] > 0), float(values[2])

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process; all processes must call this."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag))
        dist.all_reduce(value)
        return bool(value > 0)

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over all processes."""
        if self.size == 1:
            return module
        # FrameNorm reduces its statistics itself, so buffers are equal without a broadcast. Without `device_ids`, a
        # batch's lengths stay on the CPU.
        with warnings.catch_warnings():
            # PyTorch 2.13 warns that it was renamed, but earlier versions do not know the new name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False)

    def averaged_gradients(self, module: nn.Module, averaged: bool) -> contextlib.AbstractContextManager[None]:
        """Whether backward passes within the block average gradients over processes.

        If not, gradients accumulate locally, and the next averaging backward pass includes them.
        """
        if isinstance(module, DistributedDataParallel) and not averaged:
            return module.no_sync()
        return contextlib.nullcontext()


@contextlib.contextmanager
def joined_group(device: str) -> Iterator[ProcessGroup]:
    """The process group described by torchrun's environment variables, or this process alone."""
    size = variable("WORLD_SIZE", 1)
    if size == 1:
        yield ProcessGroup()
        return
    group = ProcessGroup(variable("RANK", 0, size - 1), size, variable("LOCAL_RANK", 0))
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        _check_gpus(device, group)
        torch.cuda.set_device(group.local_rank)
    # DDP imports this module; if that happens after the group was created, its default arguments keep the group alive,
    # and the threads of a group that outlives the interpreter sometimes abort the process.
    importlib.import_module("torch.distributed.nn.functional")
    _connect("cpu:gloo,cuda:nccl" if cuda else "gloo", group)
    try:
        yield group
    except Stopped:  # in all processes, after the same step
        dist.destroy_process_group()
        raise
    except BaseException as error:
        if cuda:
            # Destroying the group would wait for collectives that the others have started, and its destructor might
            # too; but torchrun ends the others only after this process has ended.
            atexit.register(_exit_at_once)
        else:
            dist.destroy_process_group()
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_IS_GONE):
            raise InputError("another process of this training has ended: see its own error message") from error
        if cuda and isinstance(error, dist.DistBackendError):
            raise MachineFault(
                f"the GPUs of this training cannot communicate ({one_line(error)}): NCCL_DEBUG=INFO prints the reason; "
                "in a container, there may be too little shared memory: start it with docker run --ipc=host"
            ) from error
        raise
    dist.destroy_process_group()


def _connect(backend: str, group: ProcessGroup) -> None:
    """Create the process group. Raises MachineFault if its processes do not reach each other.

    With both backends, values on the host are reduced without waiting for the GPU.
    """
    store = meet(group.rank, group.size)
    limit = datetime.timedelta(seconds=FIND_S)
    try:
        dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise MachineFault(
            f"the {group.size} processes of this training have started, but cannot connect to each other "
            f"({one_line(error)}): with several machines, set GLOO_SOCKET_IFNAME to the network interface that they "
            "share, such as eth0, and open its ports between them"
        ) from error
    # The others wait while the first process predicts, and torchrun ends them if it dies.
    store.set_timeout(COLLECTIVE_TIMEOUT)
    dist.distributed_c10d._set_pg_timeout(COLLECTIVE_TIMEOUT)


def _check_gpus(device: str, group: ProcessGroup) -> None:
    """Raise InputError, in all processes of a machine, unless there is a GPU for each."""
    count = torch.cuda.device_count()
    if ":" in device:
        raise InputError(f"--device {device}: each process of torchrun uses its own GPU: pass --device cuda")
    if group.local_size > count:
        few = f"with --nproc-per-node {count} at most" if count else "with --device cpu"
        found = f"{group.local_size} processes, but {counted(count, 'GPU')}"
        raise InputError(f"--device {device}: {found} on this machine: start torchrun {few}")


def _exit_at_once() -> None:
    """End the process without running destructors."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
