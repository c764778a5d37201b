"""Exceptions that training raises when it runs out of memory."""

from __future__ import annotations

from folds.training.options import TrainingRecipe
from registry.errors import MachineFault


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
