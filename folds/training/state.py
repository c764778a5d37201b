"""The state of a run in memory: what a checkpoint holds, and what a resumed run must have to repeat every bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from folds.store import checkpoint
from folds.training.distributed import ProcessGroup
from folds.training.objective import Objective
from folds.training.options import TrainingRecipe
from folds.training.weight_average import WeightAverage
from models import CTCNetwork


@dataclass
class Counters:
    """Where a run stands. Floating-point sums survive JSON to the last bit."""

    epoch: int = 1
    """The epoch in hand, from 1."""
    position: int = 0
    """Batches of it that are done."""
    step: int = 0
    elapsed: float = 0.0
    """Seconds, by the budget's clock."""
    nonfinite_steps: int = 0
    """Steps in a row whose loss was no number."""
    best: float | None = None
    """Least held-out distance so far."""
    sums: dict[str, float] = field(default_factory=dict)
    """The epoch's metrics so far, summed over labels."""


class State:
    """Model, optimizer, loss scaler, averaged weights and counters of one run; its random numbers follow from those."""

    def __init__(self, model: CTCNetwork, recipe: TrainingRecipe, device: torch.device, seed: int, group: ProcessGroup) -> None:
        self.model = model
        objective = Objective(model, intermediate=recipe.intermediate, consistency=recipe.consistency)
        self.objective = group.wrap(objective, device)
        self.optimizer = _optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.average = WeightAverage(model, recipe.average) if recipe.average else None
        self.masks = torch.Generator()
        self._keep = recipe.keep
        self.at = Counters()
        # Each process draws masks and dropout of its own.
        self._seed, self._rank = seed, group.rank

    def begin_epoch(self) -> None:
        """Begin at the first batch, with nothing summed up."""
        self.at.position, self.at.sums = 0, {}

    def begin_step(self) -> None:
        """Draw this step's random numbers from seed, process and step alone: a resumed run draws the same."""
        dropout, masks = np.random.SeedSequence([self._seed, self._rank, self.at.step]).generate_state(2, np.uint64)
        torch.manual_seed(int(dropout))
        self.masks.manual_seed(int(masks))

    def save(self, folder: Path) -> None:
        """Write a checkpoint of everything."""
        averaged = self.average.values if self.average is not None else {}
        more = {f"average.{name}": value for name, value in averaged.items()}
        header = {"at": vars(self.at), "scaler": self.scaler.state_dict()}
        checkpoint.save(folder, self.at.step, self.model, self.optimizer, header, more, self._keep)

    def restore(self, folder: Path) -> bool:
        """Go back to the newest whole checkpoint; False where there is none."""
        loaded = checkpoint.load(folder, self.model, self.optimizer)
        if loaded is None:
            return False
        header, more = loaded
        self.at = Counters(**header["at"])
        if header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        if self.average is not None:
            for name, value in self.average.values.items():
                value.copy_(more[f"average.{name}"])
        return True


def _optimizer(model: CTCNetwork, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    # Decay pulls matrices towards 0; on biases and norms' gains it does harm.
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr)
