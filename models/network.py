"""The interface that training and prediction use, and the usual CTC model: layers in sequence and an output layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field, dataclass
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

from models.group_layer import GroupLayer
from models.layers.frames import FrameLayer, output_lengths, zero_padding
from models.layers.lengths import Lengths
from models.layers.recurrent import Bidirectional, PackedFrames, padded
from registry import InputError
from registry.bounds import Bounds, check_numbers

MAX_SIZE = 1_000_000
"""Upper bound for sizes and counts in configs that set none."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base class of the models' configs; both fields are set from the data.

    A subclass sets the bounds of its numbers with `registry.bounds.number`; a field without gets its `usual_bounds`.
    """

    features: tyro.conf.Suppress[int]
    """Values per frame."""
    classes: tyro.conf.Suppress[int]
    """Number of classes, including the blank."""

    def __post_init__(self) -> None:
        if self.features < 1 or self.classes < 2:
            raise InputError(f"features {self.features} and classes {self.classes}: at least 1 and 2 are needed")
        check_numbers(self, usual_bounds)


def usual_bounds(field: Field[Any], value: float) -> Bounds | None:
    """Default bounds by a field's name and type: kernels are odd, integers at least 1, dropout a fraction."""
    if field.name == "dropout":
        return Bounds(0, 1, includes_upper=False)
    return Bounds(1, MAX_SIZE, odd=field.name == "kernel") if isinstance(value, int) else None


class TrainingOutputs(NamedTuple):
    """What a training step reads from a model; only the first two are set by every model."""

    log_probs: Tensor
    """Log-probabilities `(N, T', C)`."""
    lengths: Tensor
    """Output lengths `(N,)`, int64 on the CPU, where the losses read them."""
    middle: Tensor | None = None
    """Log-probabilities `(N, T', C)` of the intermediate output layer."""
    middle_lengths: Tensor | None = None
    states: Tensor | None = None
    """The last layer's values `(N, T', D)`."""


class CTCModel(nn.Module):
    """Base class of the models that `create_model` returns: what training and prediction need.

    A subclass sets `stride` and `classes` and implements `training_outputs`.
    """

    stride: int
    """Input frames per output frame: T frames become ceil(T / stride)."""
    classes: int
    """Number of classes C, including the blank."""

    def __init__(self) -> None:
        super().__init__()
        self.group_layer: GroupLayer | None = None
        """The layer in front of the model, if any; `models.build_network` adds it."""

    def forward(self, features: Tensor, lengths: Tensor, groups: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """Features `(N, T, F)`, lengths `(N,)` → log-probabilities `(N, T', C)` float32, lengths `(N,)`.

        Both lengths should be on the CPU: copying them from another device waits for all work queued on it. `groups`,
        the names of the utterances' groups, is read by a model with a group layer.
        """
        outputs = self.grouped_outputs(features, lengths, groups)
        return outputs.log_probs, outputs.lengths

    def grouped_outputs(self, features: Tensor, lengths: Tensor, groups: Sequence[str] = ()) -> TrainingOutputs:
        """The `training_outputs` for the features, after the group layer if there is one."""
        if self.group_layer is not None:
            features = self.group_layer(features, groups)
        return self.training_outputs(features, lengths)

    def training_outputs(self, features: Tensor, lengths: Tensor) -> TrainingOutputs:
        """What a training step reads, for features `(N, T, F)` as the group layer returns them and lengths `(N,)`.

        Values past an utterance's end may be anything.
        """
        raise NotImplementedError

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Number of output frames for `lengths` input frames."""
        return output_lengths(lengths, self.stride)

    @property
    def has_intermediate(self) -> bool:
        """Whether the model has an intermediate output layer for intermediate CTC."""
        return False

    def use_intermediate(self, used: bool) -> None:
        """Train the intermediate output layer, or leave it out.

        Raises InputError if `used` is True and the model has none.
        """
        if used:
            raise InputError("--intermediate: this model has no intermediate output layer: pass --intermediate 0")

    @property
    def has_attention_scores(self) -> bool:
        """Whether the model has an attention decoder and therefore `attention_scores`."""
        return False

    def attention_scores(self, features: Tensor, hypotheses: list[list[int]], groups: Sequence[str] = ()) -> Tensor:
        """The attention decoder's log P(hypothesis | utterance) `(H,)` for one utterance's features `(T, F)`.

        `groups` holds the name of its group, if known.
        """
        raise NotImplementedError

    def start_from_prior(self, log_prior: Tensor) -> None:
        """Initialise the biases of output layers with the classes' log-frequencies `(C,)`, if there are any."""

    def auxiliary_loss(
        self, outputs: TrainingOutputs, targets: Tensor, target_lengths: Tensor
    ) -> tuple[float, Tensor] | None:
        """(weight, loss in nats per label) of a loss besides CTC, if the model has one; CTC gets the remaining weight.

        `targets` are the labels of all utterances, concatenated; `target_lengths` `(N,)` is their number per utterance.
        """
        return None


class CTCNetwork(CTCModel):
    """Layers in sequence, then an output layer.

    With `intermediate_after=k`, a second output layer reads the k-th layer's output, for intermediate CTC in training
    (Lee & Watanabe 2021, arXiv 2102.03216).
    """

    def __init__(
        self, config: ModelConfig, layers: Sequence[FrameLayer], intermediate_after: int | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.intermediate_after = intermediate_after
        self.classes = config.classes
        self.stride = math.prod(layer.stride for layer in layers)
        self.output = nn.Linear(layers[-1].out_features, config.classes)
        self.middle: nn.Linear | None = None
        if intermediate_after is not None:
            self.middle = nn.Linear(layers[intermediate_after - 1].out_features, config.classes)

    def training_outputs(self, features: Tensor, lengths: Tensor) -> TrainingOutputs:
        """What a training step reads, for features `(N, T, F)` and lengths `(N,)`."""
        known = Lengths(lengths)
        x: Tensor | PackedFrames = zero_padding(features, known)
        middle, middle_lengths = x, known
        for count, layer in enumerate(self.layers, start=1):
            if isinstance(layer, Bidirectional) and layer.packs(features):
                x = layer.over_packed(PackedFrames.of(x, known))
            else:
                x, known = layer(padded(x), known)
            if count == self.intermediate_after:
                middle, middle_lengths = x, known
        states = padded(x)
        # The loss is a sum of many small numbers, so it is computed in float32 under autocast too.
        log_probs = self.output(states).float().log_softmax(dim=2)
        if self.middle is None or not self.middle.weight.requires_grad:  # nothing reads it: see use_intermediate
            return TrainingOutputs(log_probs, known.host, states=states)
        middle_log_probs = self.middle(padded(middle)).float().log_softmax(dim=2)
        return TrainingOutputs(log_probs, known.host, middle_log_probs, middle_lengths.host, states)

    @property
    def has_intermediate(self) -> bool:
        """Whether the model has an intermediate output layer for intermediate CTC."""
        return self.middle is not None

    def use_intermediate(self, used: bool) -> None:
        """Train the intermediate output layer, or leave it out. Raises InputError as `CTCModel` does."""
        if self.middle is None:
            super().use_intermediate(used)
        else:
            # Without a loss the layer gets no gradient, and distributed training would wait for it.
            self.middle.requires_grad_(used)

    @torch.no_grad()
    def start_from_prior(self, log_prior: Tensor) -> None:
        """Initialise the biases of output layers with the classes' log-frequencies `(C,)`.

        Most frames are blank; this saves the model from learning that first.
        """
        for layer in (self.output, self.middle):
            if layer is not None:
                layer.bias.copy_(log_prior)
