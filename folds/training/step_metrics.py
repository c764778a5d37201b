"""A run's progress counters, and its step metrics, which stay on the device until several steps are read at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from registry.json_files import convert

# Steps with a non-finite loss or gradient are skipped; this many in a row mean that training has diverged. In fp16 the
# first few steps may be skipped until the loss scale fits: it starts at 2 ** 16 and is halved after each.
MAX_NONFINITE_STEPS = 20
NO_COST = (0.0, 0.0, 0)


@dataclass
class Counters:
    """A run's progress. Floating-point sums survive a round trip through JSON exactly."""

    epoch: int = 1
    """The current epoch, from 1."""
    position: int = 0
    """Number of the epoch's batches that are done."""
    step: int = 0
    elapsed: float = 0.0
    """Seconds of training so far, by the budget's clock."""
    nonfinite_steps: int = 0
    """Consecutive steps with a non-finite loss or gradient."""
    best: float | None = None
    """Lowest held-out distance so far."""
    sums: dict[str, float] = field(default_factory=dict)
    """The epoch's metrics so far, summed over labels."""
    epoch_cost: tuple[float, float, int] = NO_COST
    """Wall seconds, CPU seconds and input frames of the epoch so far, as of a checkpoint within it."""

    @staticmethod
    def from_header(header: dict[str, Any]) -> Counters:
        """The counters in a checkpoint's header, written by this version or by versions up to 0.1.

        Raises InputError for counters that are missing or of the wrong type.
        """
        name = "counters" if "counters" in header else "at"
        recorded = convert(header, _MetricsHeader, "header").counters
        counters = recorded if recorded is not None else convert(header, _OldHeader, "header").at
        if "streak" in counters:
            counters = {**counters, "nonfinite_steps": counters["streak"]}
        return convert(counters, Counters, f"header, {name}")

    def add(self, loss: float, norm: float, labels: float) -> None:
        """Count a step with this loss in nats and this gradient norm, or as skipped if one of them is not finite."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.nonfinite_steps = 0 if finite else self.nonfinite_steps + 1
        sums = {"loss": loss, "grad_norm": norm * labels, "labels": labels} if finite else {"skipped": 1.0}
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


class _MetricsHeader(msgspec.Struct):
    counters: dict[str, Any] | None = None


class _OldHeader(msgspec.Struct):
    at: dict[str, Any]


class StepMetrics:
    """The metrics of steps that the host has not read yet, in order."""

    def __init__(self, steps_per_read: int) -> None:
        self.steps_per_read = steps_per_read
        self.loss: float | None = None
        """Loss in nats per label of the last step that was read; None before the first read."""
        self.diverged_at: np.ndarray | None = None
        """The utterances of the last of `MAX_NONFINITE_STEPS` non-finite steps in a row, once there are that many."""
        self._waiting: list[tuple[Tensor, float, np.ndarray]] = []

    def add(self, loss: Tensor, norm: Tensor, labels: float, utterances: np.ndarray) -> None:
        """Keep a step's loss in nats, summed over its `labels`, its gradient norm, and some of its `utterances`."""
        self._waiting.append((torch.stack([loss.detach().double(), norm.detach().double()]), labels, utterances))

    def due(self, step: int) -> bool:
        """Whether to read after `step` steps; always after this process's first, so that there is a loss to show."""
        return self.loss is None or step % self.steps_per_read == 0

    def read(self, counters: Counters) -> None:
        """Add the pending steps to `counters`; on a GPU this waits until they are done."""
        if not self._waiting:
            return
        values = torch.stack([values for values, _, _ in self._waiting]).tolist()
        for (loss, norm), (_, labels, utterances) in zip(values, self._waiting, strict=True):
            counters.add(loss, norm, labels)
            self.loss = loss / labels
            if counters.nonfinite_steps >= MAX_NONFINITE_STEPS:
                self.diverged_at = utterances
        self._waiting.clear()
