"""A CTC model as a chain of layers, with an output layer at the end and, for training, one on a middle layer.

Families differ only in the chain they hand over. Losses and decoding are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn

from models.layers.frames import reduced, zero_padding
from registry import InputError

BLANK = 0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every model's config has; the data give both."""

    features: tyro.conf.Suppress[int]
    """Values a frame."""
    classes: tyro.conf.Suppress[int]
    """Classes, the blank included."""

    def __post_init__(self) -> None:
        if self.features < 1 or self.classes < 2:
            raise InputError(f"features {self.features} and classes {self.classes}: at least 1 and 2 are needed")
        for name, value in vars(self).items():
            option = f"--{name.replace('_', '-')} {value}"
            numbers = value if isinstance(value, tuple) else (value,)
            if name != "reductions" and any(isinstance(number, int) and number < 1 for number in numbers):
                raise InputError(f"{option}: expected at least 1")
            if name == "reductions" and value < 0:
                raise InputError(f"{option}: expected 0 or more")
            if name == "kernel" and value % 2 == 0:
                raise InputError(f"{option}: expected an odd number, so that lengths are exact")
            if name == "dropout" and not 0 <= value < 1:
                raise InputError(f"{option}: expected a share from 0 to below 1")


class TrainingOutputs(NamedTuple):
    """What a training step reads: log-probabilities `(N, T', C)` of output and middle layer, and what the first saw."""

    log_probs: Tensor
    lengths: Tensor
    middle: Tensor
    middle_lengths: Tensor
    states: Tensor
    """The last layer's values `(N, T', D)`."""


class CTCModel(nn.Module):
    """What training and prediction need of a model: the contract `create_model` returns.

    `stride` is input frames per output frame, `classes` C with the blank.
    """

    stride: int
    classes: int

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(N, T, F)`, lengths `(N,)` → log-probabilities float32 `(N, T', C)`, lengths `(N,)`."""
        outputs = self.training_outputs(features, lengths)
        return outputs.log_probs, outputs.lengths

    def training_outputs(self, features: Tensor, lengths: Tensor) -> TrainingOutputs:
        """Everything a training step reads."""
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Output frames for `lengths` input frames."""
        return reduced(lengths, self.stride)

    def start_from_prior(self, log_prior: Tensor) -> None:
        """Begin from the classes' log-frequencies `(C,)`, where the model has a bias to put them in."""

    def auxiliary_loss(
        self, outputs: TrainingOutputs, targets: Tensor, target_lengths: Tensor
    ) -> tuple[float, Tensor] | None:
        """(weight, loss in nats per label) of what a model learns beside CTC, if anything; CTC gets the rest."""
        return None


class CTCNetwork(CTCModel):
    """Layers in a row, then log-probabilities.

    `layers` each map (x, lengths) to (x, lengths) and have `stride` and `size`. `tap` is the number of layers after
    which an intermediate output layer reads (Lee & Watanabe 2021, intermediate CTC); it serves only `heads`.
    `stride` is input frames per output frame: `output_lengths(T) = ceil(T / stride)`.
    """

    def __init__(self, config: ModelConfig, layers: Sequence[nn.Module], tap: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.tap = tap
        self.classes = config.classes
        self.stride = 1
        for layer in layers:
            self.stride *= layer.stride
        self.output = nn.Linear(layers[-1].size, config.classes)
        self.middle = nn.Linear(layers[tap - 1].size, config.classes)

    def training_outputs(self, features: Tensor, lengths: Tensor) -> TrainingOutputs:
        """Everything a training step reads."""
        x = zero_padding(features, lengths)
        middle, middle_lengths = x, lengths
        for count, layer in enumerate(self.layers, start=1):
            x, lengths = layer(x, lengths)
            if count == self.tap:
                middle, middle_lengths = x, lengths
        # The loss is a sum of many small numbers: in float32 whatever autocast made of the layers.
        final = self.output(x).float().log_softmax(dim=2)
        return TrainingOutputs(final, lengths, self.middle(middle).float().log_softmax(dim=2), middle_lengths, x)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Output frames for `lengths` input frames."""
        for layer in self.layers:
            lengths = reduced(lengths, layer.stride)
        return lengths

    @torch.no_grad()
    def start_from_prior(self, log_prior: Tensor) -> None:
        """Begin from the classes' log-frequencies `(C,)`: training need not first learn that most frames are blank."""
        for head in (self.output, self.middle):
            head.bias.copy_(log_prior)
