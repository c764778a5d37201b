"""The in-memory state of a run: what a checkpoint holds, and all that a resumed run needs to be bit-identical."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from folds.store import checkpoint
from folds.store.run_folder import RunFolder
from folds.training.distributed import ProcessGroup
from folds.training.objective import Objective
from folds.training.options import TrainingRecipe
from folds.training.step_metrics import NO_COST, Counters, StepMetrics
from folds.training.weight_average import WeightAverage
from models import CTCModel
from registry.json_files import convert

# Number of steps whose loss and gradient norm stay on the device until they are read; 1 for types not listed. Each read
# waits for the GPU and leaves it idle. In between, the device itself skips steps with a non-finite loss, without the
# host knowing. Tests add "cpu" to train there as on CUDA.
STEPS_PER_READ = {"cuda": 50}


class StepSeeds(NamedTuple):
    """The seeds of one step's random numbers in one process."""

    dropout: int
    masks: int


def step_seeds(seed: int, rank: int, step: int) -> StepSeeds:
    """The seeds of a step, which depend only on the run's seed, the process and the step."""
    return StepSeeds(*np.random.SeedSequence([seed, rank, step]).generate_state(2, np.uint64).tolist())


class State:
    """Model, optimizer, loss scaler, averaged weights and counters of one run; these determine its random numbers."""

    def __init__(
        self, model: CTCModel, recipe: TrainingRecipe, device: torch.device, seed: int, group: ProcessGroup
    ) -> None:
        self.model = model
        objective = Objective(
            model,
            intermediate=recipe.intermediate,
            consistency=recipe.consistency,
            guide_weight=recipe.guide_weight,
            teacher_weight=recipe.teacher_weight,
        )
        self.objective = group.wrap(objective)
        steps_per_read = STEPS_PER_READ.get(device.type, 1)
        self.decides_on_device = steps_per_read > 1
        self.optimizer = _optimizer(model, recipe, fused=self.decides_on_device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.average = WeightAverage(model, recipe.average) if recipe.average else None
        self.metrics = StepMetrics(steps_per_read)
        self.counters = Counters()
        self._keep = recipe.keep
        # Each process draws its own masks and dropout.
        self._seed, self._rank = seed, group.rank

    def begin_epoch(self) -> None:
        """Start at the first batch, with empty sums."""
        self.counters.position, self.counters.sums, self.counters.epoch_cost = 0, {}, NO_COST

    def begin_step(self) -> None:
        """Seed this step's dropout from seed, process and step only, so that a resumed run draws the same."""
        torch.manual_seed(step_seeds(self._seed, self._rank, self.counters.step).dropout)

    def read_metrics(self) -> None:
        """Add the metrics of the steps since the last read to the counters."""
        self.metrics.read(self.counters)

    def save(self, run: RunFolder) -> None:
        """Write a checkpoint of everything."""
        self.read_metrics()
        averaged = self.average.values if self.average is not None else {}
        more = {f"average.{name}": value for name, value in averaged.items()}
        header = {"counters": vars(self.counters), "scaler": self.scaler.state_dict()}
        checkpoint.save(run, self.counters.step, self.model, self.optimizer, header, more, self._keep)

    def restore(self, run: RunFolder) -> bool:
        """Load the newest intact checkpoint; False if there is none."""
        loaded = checkpoint.load(run, self.model, self.optimizer, self._check)
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

    def _check(self, header: dict[str, Any], more: dict[str, Tensor]) -> None:
        """Raise InputError unless a checkpoint has the counters, the scaler's state and the averaged weights."""
        Counters.from_header(header)
        convert(header, _StateHeader, "header")
        expected = {f"average.{name}": value for name, value in self.average.values.items()} if self.average else {}
        checkpoint.check_shapes({name: more[name] for name in more if name in expected}, expected)


class _StateHeader(msgspec.Struct):
    """The part of a checkpoint's header that `Counters` does not read."""

    scaler: dict[str, float]


def _optimizer(model: CTCModel, recipe: TrainingRecipe, fused: bool) -> torch.optim.Optimizer:
    # Weight decay is for matrices: it hurts on biases and on the gains of normalisation layers.
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused or None)
