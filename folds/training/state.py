"""The state of a run in memory: what a checkpoint holds, and all that a resumed run needs to repeat every bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from folds.store import checkpoint
from folds.store.run_folder import RunFolder
from folds.training.distributed import ProcessGroup
from folds.training.objective import Objective
from folds.training.options import TrainingRecipe
from folds.training.weight_average import WeightAverage
from models import CTCModel


@dataclass
class Counters:
    """How far a run is. Floating-point sums survive JSON to the last bit."""

    epoch: int = 1
    """The current epoch, from 1."""
    position: int = 0
    """Batches of it that are done."""
    step: int = 0
    elapsed: float = 0.0
    """Seconds, by the budget's clock."""
    nonfinite_steps: int = 0
    """Consecutive steps with a non-finite loss or gradient."""
    best: float | None = None
    """Lowest held-out distance so far."""
    sums: dict[str, float] = field(default_factory=dict)
    """The epoch's metrics so far, summed over labels."""

    @staticmethod
    def from_header(header: dict[str, Any]) -> Counters:
        """The counters in a checkpoint's header, written by this version or by versions up to 0.1."""
        counters = header.get("counters") or header["at"]
        if "streak" in counters:
            counters["nonfinite_steps"] = counters.pop("streak")
        return Counters(**counters)


class State:
    """Model, optimizer, loss scaler, averaged weights and counters of one run; its random numbers follow from those."""

    def __init__(
        self, model: CTCModel, recipe: TrainingRecipe, device: torch.device, seed: int, group: ProcessGroup
    ) -> None:
        self.model = model
        objective = Objective(model, intermediate=recipe.intermediate, consistency=recipe.consistency)
        self.objective = group.wrap(objective, device)
        self.optimizer = _optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.average = WeightAverage(model, recipe.average) if recipe.average else None
        self.masks = torch.Generator()
        self.counters = Counters()
        self._keep = recipe.keep
        # Each process draws masks and dropout of its own.
        self._seed, self._rank = seed, group.rank

    def begin_epoch(self) -> None:
        """Begin at the first batch, with empty sums."""
        self.counters.position, self.counters.sums = 0, {}

    def begin_step(self) -> None:
        """Seed this step's random numbers from seed, process and step alone: a resumed run draws the same."""
        sequence = np.random.SeedSequence([self._seed, self._rank, self.counters.step])
        dropout, masks = sequence.generate_state(2, np.uint64)
        torch.manual_seed(int(dropout))
        self.masks.manual_seed(int(masks))

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of everything."""
        averaged = self.average.values if self.average is not None else {}
        more = {f"average.{name}": value for name, value in averaged.items()}
        header = {"counters": vars(self.counters), "scaler": self.scaler.state_dict()}
        checkpoint.save(run, self.counters.step, self.model, self.optimizer, header, more, self._keep)

    def restore(self, run: RunFolder) -> bool:
        """Load the newest intact checkpoint; False if there is none."""
        loaded = checkpoint.load(run, self.model, self.optimizer)
        if loaded is None:
            return False
        header, more = loaded
        self.counters = Counters.from_header(header)
        if header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        if self.average is not None:
            for name, value in self.average.values.items():
                value.copy_(more[f"average.{name}"])
        return True


def _optimizer(model: CTCModel, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    # Weight decay is for matrices: on biases and on the gains of normalisation it does harm.
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr)
