"""What training raises where memory does not suffice."""

from __future__ import annotations

from folds.training.options import TrainingRecipe
from registry.errors import MachineFault


class MemoryRanOut(MachineFault):
    """Memory did not suffice for a run that it had sufficed for before."""


class BatchTooLarge(Exception):
    """A batch does not fit into the device's memory; `recipe` is the run's."""

    def __init__(self, message: str, recipe: TrainingRecipe) -> None:
        super().__init__(message)
        self.recipe = recipe

    @property
    def smaller(self) -> str:
        """The options that train the same with batches of half the frames."""
        recipe = self.recipe
        return f"--batch-frames {recipe.batch_frames // 2} --accumulate {2 * recipe.accumulate} --lr {recipe.lr:.5g}"
