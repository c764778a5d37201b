"""Training states and weights on disk, without pickle: tensors in safetensors, the rest as JSON in the file's header.

At least two training states are kept, so that one damaged by a failing disk costs some steps and not the run.
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

from folds.store.run_folder import RunFolder
from registry import InputError, atomic_write

MIN_KEPT = 2


def save(
    run: RunFolder,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    header: dict[str, Any],
    more: dict[str, Tensor],
    keep: int = MIN_KEPT,
) -> None:
    """Write the state after `step` steps with `header` (JSON) and `more`, then delete all but the newest `keep`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, value in slots.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors |= {f"more.{name}": value for name, value in more.items()}
    _write(run.checkpoint(step), tensors, {"header": json.dumps(header)})
    for old in run.checkpoints[: -max(MIN_KEPT, keep)]:
        old.unlink()


def load(run: RunFolder, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore model and optimizer from the newest intact checkpoint: (header, more), or None if there is none.

    A damaged checkpoint is reported on stderr and renamed, and the one before it is used. One that cannot be read for
    another reason (no permission, a network drive that is unavailable) is an OSError: that must not cost any steps.
    """
    for path in reversed(run.checkpoints):
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["header"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            continue  # another process of the group has renamed it
        except SafetensorError as error:
            print(f"warning: {path} is damaged ({error}): going back to the checkpoint before it", file=sys.stderr)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_suffix(".damaged"))
            continue
        model.load_state_dict(_with_prefix(tensors, "model."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "optimizer.").items():
            index, slot = name.split(".")
            slots.setdefault(int(index), {})[slot] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        return header, _with_prefix(tensors, "more.")
    return None


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the weights alone, for `models.weights_file.load_weights`."""
    _write(path, model.state_dict())


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights in several checkpoints, computed in double; integer tensors are the last one's.

    Raises InputError for a checkpoint that cannot be read.
    """
    weights = []
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118 - not a mapping
                weights.append(_with_prefix({name: file.get_tensor(name) for name in names}, "model."))
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged ({error}): delete it and use a smaller --last") from None
    return {
        name: torch.stack([state[name].double() for state in weights]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in weights[-1].items()
    }


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_write(path) as temporary:
        # Not `save_file`: on a full disk it raises SafetensorError, which hides the errno that `command` looks for;
        # Python's own write raises OSError.
        temporary.write_bytes(to_bytes({name: value.contiguous() for name, value in tensors.items()}, metadata))


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
