"""A training state on disk, without pickle: tensors in safetensors, the rest as JSON in its header.

At least two checkpoints are kept, so that one damaged by a failing disk costs some steps and not the run.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from registry import InputError, atomic_write

KEEP = 2


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    header: dict[str, Any],
    more: dict[str, Tensor],
    keep: int = KEEP,
) -> None:
    """Write the state after `step` steps, `header` (JSON) and `more` with it, and drop all but the newest `keep`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors |= {f"more.{name}": value for name, value in more.items()}
    with atomic_write(folder / f"step{step:08d}.safetensors") as temporary:
        # Through Python's own write, so that a full disk is an OSError as everywhere else.
        whole = {name: value.contiguous() for name, value in tensors.items()}
        temporary.write_bytes(to_bytes(whole, metadata={"header": json.dumps(header)}))
    for old in files(folder)[: -max(KEEP, keep)]:
        old.unlink()


def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore model and optimizer from the newest whole checkpoint: (header, more), or None where there is none.

    A damaged one is named on stderr and set aside, and the one before it is used. One that cannot be read for another
    reason (no permission, a network drive that is away) is an OSError: steps are not thrown away for that.
    """
    for path in reversed(files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["header"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            continue  # another process of the group has set it aside
        except SafetensorError as error:
            print(f"warning: {path} is damaged ({error}): going back to the checkpoint before it", file=sys.stderr)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_suffix(".damaged"))
            continue
        model.load_state_dict(_part(tensors, "model."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        return header, _part(tensors, "more.")
    return None


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the weights alone."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes({name: value.contiguous() for name, value in model.state_dict().items()}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read what `save_weights` wrote. Raises InputError for a file that is missing, damaged, or of another model."""
    try:
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not these weights ({told}): train this run again, in a folder of its own") from None


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights that some checkpoints hold, computed in double; whole numbers are the last one's.

    Raises InputError for a checkpoint that cannot be read.
    """
    loaded = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118 - not a mapping
                loaded.append(_part({name: file.get_tensor(name) for name in names}, "model."))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged ({error}): delete it and say a smaller --last") from None
    return {
        name: torch.stack([each[name].double() for each in loaded]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in loaded[-1].items()
    }


def files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step*.safetensors"))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
