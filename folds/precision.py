"""Which arithmetic autocast uses on which device."""

from __future__ import annotations

import torch

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of `--precision` on `device`, None for no autocast; `auto` is bf16 where the device computes in it."""
    if precision == "auto":
        precision = "bf16" if computes_in_bf16(device) else "fp32"
    return DTYPES[precision]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 run in hardware; emulated, they are slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older PyTorch releases cannot tell.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
