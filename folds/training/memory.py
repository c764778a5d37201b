"""The memory that training needs on a GPU, estimated before it starts; exceptions for when it runs out."""

from __future__ import annotations

import gc
import math

import torch
from torch import Tensor

from folds.training.options import TrainingRecipe
from models import CTCModel
from registry.errors import MachineFault

MARGIN = 1.25
"""The estimate is multiplied by this for temporary tensors and fragmentation. An assumption: no GPU was measured."""
_COUNTED = 250
"""Frames of each utterance in the batches whose activations are counted."""


def release_gpu_memory() -> None:
    """Free the GPU memory that an earlier run of this process, or a failed attempt at this one, has left."""
    if torch.cuda.is_initialized():
        gc.collect()  # an optimizer may be part of a reference cycle
        torch.cuda.empty_cache()  # what is free may still be reserved


def free_memory(device: torch.device) -> float:
    """Bytes free on a GPU, for all programs; infinite for a CPU, whose memory limits no default."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def estimated_bytes(model: CTCModel, features: int, recipe: TrainingRecipe) -> float:
    """Estimate the bytes that training takes on a GPU with a recipe's batches; the model is on the CPU.

    That is 16 bytes per parameter, for the weight, its gradient and the two moments of AdamW, with 2 more for a copy in
    half precision and 4 for a moving average, and what the forward pass keeps for the backward pass, counted on the CPU
    with small batches. Leaves the model in training mode.
    """
    views = 2 if recipe.consistency else 1
    parameters = sum(parameter.numel() for parameter in model.parameters())
    half = recipe.precision != "fp32"
    per_parameter = 16 + (2 if half else 0) + (4 if recipe.average else 0)
    # The difference of two batches leaves out what does not depend on their size, such as copies of weights.
    per_frame = (_kept(model, features, 4, half) - _kept(model, features, 2, half)) / (2 * _COUNTED)
    return MARGIN * (parameters * per_parameter + per_frame * recipe.batch_frames * views)


def _kept(model: CTCModel, features: int, utterances: int, half: bool) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass."""
    kept: dict[int, Tensor] = {}  # these stay alive, so no two storages have the same address

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model.train()
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        model.training_outputs(torch.zeros(utterances, _COUNTED, features), torch.full((utterances,), _COUNTED))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class MemoryRanOut(MachineFault):
    """A run that used to fit into memory ran out of it."""


class BatchTooLarge(Exception):
    """A batch does not fit into the device's memory; `recipe` is the run's."""

    def __init__(self, message: str, recipe: TrainingRecipe) -> None:
        super().__init__(message)
        self.recipe = recipe

    @property
    def smaller(self) -> str:
        """The options for equivalent training with batches of half the frames."""
        recipe = self.recipe
        return f"--batch-frames {recipe.batch_frames // 2} --accumulate {2 * recipe.accumulate} --lr {recipe.lr:.5g}"
