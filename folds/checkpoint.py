"""A training state on disk, without pickle: tensors in safetensors, the rest as JSON in its header.

Two checkpoints are kept, so that one damaged by a failing disk costs an epoch and not the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn
from torch.optim import Optimizer

from registry import atomic_write

KEEP = 2


def save(folder: Path, epoch: int, model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs and drop all but the newest ones."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    header = {"epoch": str(epoch), "state": json.dumps(state)}
    with atomic_write(folder / f"epoch{epoch:04d}.safetensors") as temporary:
        # Through Python's own write, so that a full disk is an OSError as everywhere else.
        temporary.write_bytes(to_bytes(tensors, metadata=header))
    for old in files(folder)[:-KEEP]:
        old.unlink()


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest whole checkpoint: (epochs done, state), or None where there is none.

    One that cannot be read is named on stderr and the one before it is used.
    """
    for path in reversed(files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError) as error:
            print(f"warning: {path} is damaged ({error}): going back to the checkpoint before it", file=sys.stderr)
            path.unlink()
            continue
        prefix = "model."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        return int(header["epoch"]), json.loads(header["state"])
    return None


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the weights alone."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes({name: value.contiguous() for name, value in model.state_dict().items()}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read what `save_weights` wrote."""
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def files(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("epoch*.safetensors"))
