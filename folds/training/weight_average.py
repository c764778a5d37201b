"""An exponential moving average (EMA) of a model's weights; its time constant is a fraction of the run.

A fixed decay ruins short runs: with 0.998, the initial weights still count after 1,000 steps. Here the
time constant is a given fraction of the steps the run will have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """The EMA of `model`'s floating-point state; its time constant is the `fraction` of the run's steps."""

    def __init__(self, model: nn.Module, fraction: float) -> None:
        self.model = model
        self.fraction = fraction
        self.values = {name: value.detach().clone() for name, value in self._floating().items()}

    @torch.no_grad()
    def update(self, step: int, total_steps: float) -> None:
        """Add the weights after `step` of `total_steps` steps; over the first steps the average is a plain mean."""
        weight = 1.0 / (1.0 + min(float(step), self.fraction * total_steps))
        for name, value in self._floating().items():
            self.values[name].lerp_(value, weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the `with` block, the model has the averaged weights."""
        own = {name: value.detach().clone() for name, value in self._floating().items()}
        self._set(self.values)
        try:
            yield
        finally:
            self._set(own)

    def copy_to_model(self) -> None:
        """Replace the model's weights with the average."""
        self._set(self.values)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in self._floating().items():
            value.copy_(values[name])

    def _floating(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if value.is_floating_point()}
