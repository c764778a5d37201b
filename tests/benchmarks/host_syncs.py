"""How often the host waits for the device in a piece of code: each time, the device runs out of work.

On CUDA, PyTorch itself reports such operations. On other devices nothing waits, so the operations that would wait on
CUDA are counted: those that return values to Python, or whose output size depends on values. Copies and what only CUDA
runs, such as its CTC kernels, are missed there. Integers are lengths, which are on the host in any case.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA_WARNING = "called a synchronizing CUDA operation"
SYNCHRONISING = ("nonzero", "masked_select", "equal", "_unique2", "unique_consecutive")


class HostSyncs(TorchDispatchMode):
    """Within the `with` block, counts operations that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        # A boolean mask as an index is a `nonzero` inside the operator.
        masks = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in masks)
        reads = name == "_local_scalar_dense" and (args[0].is_floating_point() or args[0].dtype == torch.bool)
        self.count += name in SYNCHRONISING or by_mask or reads
        return func(*args, **(kwargs or {}))


class CUDASyncs:
    """The count of `cuda_syncs`; complete after its block."""

    count = 0


@contextlib.contextmanager
def cuda_syncs() -> Iterator[CUDASyncs]:
    """Within the block, count the operations for which the host waits for CUDA, as PyTorch reports them."""
    syncs, before = CUDASyncs(), torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield syncs
        finally:
            torch.cuda.set_sync_debug_mode(before)
            syncs.count = sum(CUDA_WARNING in str(warning.message) for warning in caught)
