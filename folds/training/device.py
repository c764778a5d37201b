"""The device a run computes on, and the precision of its arithmetic there."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from folds.training.distributed import ProcessGroup
from folds.training.options import Precision, PrecisionOption
from registry import InputError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, group: ProcessGroup) -> torch.device:
    """The device of `--device`; each process of a group has its own GPU. Raises InputError if it cannot be used.

    `auto` is CUDA where there is a GPU, else the CPU. It is never MPS, for which PyTorch has no CTC loss.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] == "mps":
        raise InputError(f"--device {name}: PyTorch has no CTC loss on MPS; use --device cpu")
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not available on this machine ({reason}); try cpu") from None
    return device


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def resolve_precision(precision: PrecisionOption, device: torch.device, model: nn.Module) -> Precision:
    """What `--precision` is for `model` on `device`: "fp32", "bf16" or "fp16".

    `auto` on CUDA is fp16 for models with LSTM or GRU layers, and for others bf16 where the GPU has it (compute
    capability 8.0), else fp16; on a CPU it is bf16 with AMX, else fp32. Raises InputError for bf16 on CUDA with LSTM or
    GRU layers, and for fp16 on a CPU.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    if device.type == "cuda":
        if precision == "auto":
            return "fp16" if recurrent or torch.cuda.get_device_capability(device) < (8, 0) else "bf16"
        if precision == "bf16" and recurrent:
            raise InputError(
                "--precision bf16: on CUDA, cuDNN computes LSTM and GRU layers in fp16 under bf16 autocast, without a "
                "loss scale, so small gradients become zero; use --precision fp16, which scales the loss, or fp32"
            )
    elif precision == "auto":
        return "bf16" if device.type == "cpu" and has_amx() else "fp32"
    elif precision == "fp16":
        raise InputError(f"--precision fp16: not for training on {device.type}; use --precision auto, bf16 or fp32")
    return precision


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of autocast; None for no autocast."""
    return DTYPES[precision]


def has_amx() -> bool:
    """Whether the CPU has AMX, matrix units for bf16.

    AVX-512 BF16 alone does not count: without AMX, steps of all families took 1.2 to 1.5 times as long as in float32.
    """
    # Older PyTorch releases do not have get_capabilities.
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get("amx_bf16"))
