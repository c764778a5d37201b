"""The device a run computes on, and its numerical precision there."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from folds.training.distributed import ProcessGroup
from folds.training.options import Precision, PrecisionOption
from registry import InputError
from registry.errors import MachineFault

CPUINFO = Path("/proc/cpuinfo")
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, group: ProcessGroup) -> torch.device:
    """The device of `--device`; each process of a group has its own GPU. Raises InputError if it cannot be used.

    `auto` is CUDA if there is a GPU, else the CPU. It is never MPS, for which PyTorch has no CTC loss.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] == "mps":
        raise InputError(f"--device {name}: PyTorch has no CTC loss on MPS; use --device cpu")
    if name == "cuda" and group.size > 1:
        name = f"cuda:{group.local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # a "meta" device has no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise MachineFault(f"--device {name}: not available on this machine ({reason}); try cpu") from None
    return device


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _from_cpuinfo("model name") or platform.processor() or platform.machine()


def resolve_precision(precision: PrecisionOption, device: torch.device, model: nn.Module) -> Precision:
    """Resolve `--precision` for `model` on `device`: "fp32", "bf16" or "fp16".

    `auto` on CUDA is fp16 for models with LSTM or GRU layers, and for others bf16 if the GPU supports it (compute
    capability 8.0), else fp16; on a CPU it is bf16 if that is fast there (`has_fast_bf16`), else fp32. Raises
    InputError for bf16 on CUDA with LSTM or GRU layers, and for fp16 on a CPU.
    """
    recurrent = _is_recurrent(model)
    if device.type == "cuda":
        if precision == "auto":
            return "fp16" if recurrent or torch.cuda.get_device_capability(device) < (8, 0) else "bf16"
        if precision == "bf16" and recurrent:
            raise InputError(
                "--precision bf16: on CUDA, cuDNN computes LSTM and GRU layers in fp16 under bf16 autocast, without a "
                "loss scale, so small gradients become zero; use --precision fp16, which scales the loss, or fp32"
            )
    elif precision == "auto":
        return "bf16" if device.type == "cpu" and has_fast_bf16() else "fp32"
    elif precision == "fp16":
        raise InputError(f"--precision fp16: not for training on {device.type}; use --precision auto, bf16 or fp32")
    return precision


def uses_tf32(device: torch.device) -> bool:
    """Whether float32 matrix products are in TF32 (10 bits of mantissa instead of 23): training on Ampere and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The autocast dtype; None for no autocast."""
    return DTYPES[precision]


def inference_dtype(precision: Precision, device: torch.device, model: nn.Module) -> torch.dtype | None:
    """The autocast dtype for running another model, without gradients, in a training run of this precision.

    For recurrent layers it is fp16 if training uses bf16 on CUDA, because PyTorch before 2.10 runs them one time step
    at a time there.
    """
    if precision == "bf16" and device.type == "cuda" and _is_recurrent(model):
        precision = "fp16"
    return autocast_dtype(precision)


def _is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def has_fast_bf16() -> bool:
    """Whether the CPU computes faster in bf16 than in float32: with AMX, or AMD's AVX-512 BF16 (Zen 4 and later).

    On Zen 5, where bf16 matrix products run four times as many operations per second, steps of all model families take
    0.66 to 0.76 times as long as in float32, even those of GRUs, whose recurrence stays in float32; Zen 4 has not been
    measured. On an Intel Xeon without AMX, steps take 1.2 to 1.6 times as long.
    """
    # Older PyTorch releases do not have get_capabilities.
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    amd = "AuthenticAMD" in (_from_cpuinfo("vendor_id") or platform.processor())  # the latter on Windows
    return bool(found.get("amx_bf16") or (amd and found.get("avx512_bf16")))


def _from_cpuinfo(key: str) -> str:
    """The first value of `key` in Linux's /proc/cpuinfo; empty if there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
