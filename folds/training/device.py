"""The device a run computes on, and the precision of its arithmetic there."""

from __future__ import annotations

import torch

from folds.training.distributed import ProcessGroup
from registry import InputError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, group: ProcessGroup) -> torch.device:
    """The device of `--device`; each process of a group has its own GPU. Raises InputError if this machine lacks it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not available on this machine ({reason}); try cpu") from None
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of `--precision` on `device`, None for no autocast; `auto` is bf16 where that is faster."""
    if precision == "auto":
        precision = "bf16" if faster_in_bf16(device) else "fp32"
    return DTYPES[precision]


def faster_in_bf16(device: torch.device) -> bool:
    """Whether the device has matrix units for bf16: CUDA from Ampere on, CPUs with AMX.

    AVX-512 BF16 alone does not count: without AMX, steps of all families took 1.2 to 1.5 times as long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # older PyTorch releases do not have it
        return bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return False
