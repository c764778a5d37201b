"""Progress and learning-rate schedule of a run: warm-up and cosine over a budget of epochs or minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from folds.training.options import TrainingRecipe


def learning_rate(progress: float, recipe: TrainingRecipe) -> float:
    """The learning rate at `progress` from 0 to 1: a linear warm-up, then a cosine to 0."""
    if progress < recipe.warmup:
        return recipe.lr * (progress + 1e-3) / (recipe.warmup + 1e-3)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * ((progress - recipe.warmup) / (1 - recipe.warmup))))


# Without --save-every, a killed run loses at most this much work of a long epoch.
SAVE_MINUTES = 10.0


class SaveTimer:
    """When to write checkpoints: after each epoch and every ten minutes within one, or with `--save-every` only once
    every `minutes`."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self.restart()

    def restart(self) -> None:
        """Called when a checkpoint was written."""
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether to write one within an epoch."""
        return time.monotonic() - self._saved > 60 * (self._minutes or SAVE_MINUTES)

    def due_after_epoch(self) -> bool:
        """Whether to write one after an epoch that is not the last."""
        return not self._minutes or self.due()


class Budget:
    """A run's budget: `steps`, the total over its epochs, or with `--minutes` a time, however many steps it allows."""

    def __init__(self, recipe: TrainingRecipe, steps: int) -> None:
        self.minutes = recipe.minutes
        self.steps = steps
        self._clock: Callable[[], float] = time.process_time if recipe.clock == "cpu" else time.monotonic
        self._last = self._clock()

    def tick(self) -> float:
        """Seconds since the last tick."""
        now = self._clock()
        spent, self._last = now - self._last, now
        return spent

    def progress(self, step: int, elapsed: float) -> float:
        """The fraction of the budget that `step` steps in `elapsed` seconds have spent."""
        return elapsed / (60 * self.minutes) if self.minutes is not None else step / self.steps

    def total_steps(self, step: int, elapsed: float) -> float:
        """The total number of steps of the run; with `--minutes`, an estimate from the steps so far."""
        return self.steps if self.minutes is None else step / max(self.progress(step, elapsed), 1e-6)
