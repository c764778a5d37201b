"""An exponential moving average of a model's weights, over a share of the run rather than a fixed number of steps.

A fixed decay ruins short runs: .998 over 1,000 steps still remembers the beginning. Here the average looks back over
a given share of the steps the run will have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """The averaged copy of `model`'s floating-point state."""

    def __init__(self, model: nn.Module, share: float) -> None:
        self.model = model
        self.share = share
        self.values = {name: value.detach().clone() for name, value in self._floating().items()}

    @torch.no_grad()
    def update(self, step: int, total_steps: float) -> None:
        """Take in the weights after `step` of `total_steps` steps; the first steps are a plain mean."""
        weight = 1.0 / (1.0 + min(float(step), self.share * total_steps))
        for name, value in self._floating().items():
            self.values[name].lerp_(value, weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights for the time of a `with` block."""
        own = {name: value.detach().clone() for name, value in self._floating().items()}
        self._set(self.values)
        try:
            yield
        finally:
            self._set(own)

    def store(self) -> None:
        """Give the model the averaged weights for good."""
        self._set(self.values)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in self._floating().items():
            value.copy_(values[name])

    def _floating(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if value.is_floating_point()}
