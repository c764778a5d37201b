"""Which arithmetic autocast uses on which device."""

from __future__ import annotations

import torch

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    # Older PyTorch releases cannot tell.
    return device.type == "cpu" and bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))
