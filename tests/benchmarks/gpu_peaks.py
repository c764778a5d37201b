"""Peak arithmetic of NVIDIA GPUs by the name that CUDA reports.

From NVIDIA's data sheets "T4 Tensor Core GPU", "V100 Tensor Core GPU", "A100 Tensor Core GPU", "L4 Tensor Core GPU",
"H100 Tensor Core GPU" and "H200 Tensor Core GPU", and for the RTX 4090 from the whitepaper "NVIDIA Ada GPU
Architecture". Figures are for dense matrices; where a data sheet gives them with sparsity (L4, H100, H200) they are
halved. fp16 and bf16 accumulate in float32. T4 and V100 have tensor cores for fp16 only.
"""

from __future__ import annotations

import re

# Name without "NVIDIA" or "Tesla" -> precision -> TFLOP/s. The whole name must match, because a part of a GPU (MIG), a
# laptop's or an overclocked version has another peak.
PEAKS: dict[str, dict[str, float]] = {
    "T4": {"fp32": 8.1, "fp16": 65},
    r"V100-SXM[23]-\d+GB": {"fp32": 15.7, "fp16": 125},
    r"V100-PCIE-\d+GB": {"fp32": 14, "fp16": 112},
    "A100-SXM4-[48]0GB|A100-PCIE-40GB|A100 80GB PCIe": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121},
    "GeForce RTX 4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2},
    "H100 80GB HBM3|H200": {"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "bf16": 756.5, "fp16": 756.5},
    "H100 NVL|H200 NVL": {"fp32": 60, "tf32": 417.5, "bf16": 835.5, "fp16": 835.5},
}


def peak(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of a device in a precision, "fp32", "tf32", "bf16" or "fp16"; None if it is not known.

    >>> peak("Tesla T4", "fp16")
    65000000000000.0
    """
    name = re.sub(r"^(NVIDIA |Tesla )+", "", device_name)
    for pattern, figures in PEAKS.items():
        if re.fullmatch(pattern, name):
            return figures[precision] * 1e12 if precision in figures else None
    return None
