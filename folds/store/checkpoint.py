"""Training states and weights on disk, without pickle: tensors in safetensors, the rest as JSON in the file's header.

At least two training states are kept, so that one damaged by a failing disk costs some steps, not the run.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from folds.store.run_folder import RunFolder
from models.checked_tensors import read_tensors, write_tensors
from registry import InputError
from registry.errors import one_line

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
    write_tensors(run.checkpoint(step), tensors, {"header": json.dumps(header)})
    for old in run.checkpoints[: -max(MIN_KEPT, keep)]:
        old.unlink()


def load(
    run: RunFolder,
    model: nn.Module,
    optimizer: Optimizer,
    check: Callable[[dict[str, Any], dict[str, Tensor]], object] = lambda header, more: None,
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore model and optimizer from the newest intact checkpoint: (header, more), or None if there is none.

    A checkpoint that is damaged, has other tensors than `model` and `optimizer`, or for which `check(header, more)`
    raises InputError, is reported on stderr and renamed, and the one before it is used. One that cannot be read for
    another reason (no permission, an unavailable network drive) raises OSError: that must not cost any steps.
    """
    for path in reversed(run.checkpoints):
        try:
            header, tensors = _read(path)
            # Everything is checked before anything is loaded: training must not start from half a checkpoint.
            more = _with_prefix(tensors, "more.")
            check(header, more)
            check_shapes(_with_prefix(tensors, "model."), model.state_dict())
            slots = _slots(_with_prefix(tensors, "optimizer."), optimizer)
        except FileNotFoundError:
            continue  # another process of the group has renamed it
        except (SafetensorError, InputError) as error:
            advice = "going back to the checkpoint before it"
            print(f"warning: {path} is damaged ({one_line(error)}): {advice}", file=sys.stderr)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_suffix(".damaged"))
            continue
        model.load_state_dict(_with_prefix(tensors, "model."))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
        return header, more
    return None


def check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise InputError unless both have the same names, shapes and types."""
    if different := sorted({*tensors} ^ {*expected}):
        raise InputError(f"tensor {different[0]}: {'not expected' if different[0] in tensors else 'missing'}")
    for name, tensor in tensors.items():
        found, wanted = ((tuple(t.shape), t.dtype) for t in (tensor, expected[name]))
        if found != wanted:
            raise InputError(f"tensor {name}: {found[0]} {found[1]}, expected {wanted[0]} {wanted[1]}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors, metadata = read_tensors(path)
    try:
        header = json.loads(metadata["header"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"header: {one_line(error)}") from None
    if not isinstance(header, dict):
        raise InputError(f"header: expected object, found {type(header).__name__}")
    return header, tensors


def _slots(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by parameter index and name. Raises InputError if it is another optimizer's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, slot = name.partition(".")
        if not (index.isascii() and index.isdecimal() and int(index) < len(parameters)):
            raise InputError(f"tensor optimizer.{name}: not expected")
        if value.ndim and value.shape != parameters[int(index)].shape:
            shape = tuple(parameters[int(index)].shape)
            raise InputError(f"tensor optimizer.{name}: {tuple(value.shape)}, expected {shape}")
        slots.setdefault(int(index), {})[slot] = value
    names = set().union(*slots.values())
    for number, found in slots.items():
        if missing := sorted(names - set(found)):
            raise InputError(f"tensor optimizer.{number}.{missing[0]}: missing")
    return slots


def save_weights(path: Path, model: nn.Module) -> None:
    """Write only the weights, for `models.weights_file.load_weights`."""
    write_tensors(path, model.state_dict())


def mean_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights in several checkpoints, in double precision; integer tensors are taken from the last one.

    For a run that predicts with an average of its weights (`--average`), it is the mean of those averages. Raises
    InputError for a checkpoint that cannot be read.
    """
    weights = []
    for path in paths:
        try:
            tensors = read_tensors(path)[0]
            weights.append(_with_prefix(tensors, "model.") | _with_prefix(tensors, "more.average."))
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{path}: damaged ({error}): delete it and use a smaller --last") from None
    return {
        name: torch.stack([state[name].double() for state in weights]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in weights[-1].items()
    }


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
