"""GRU layers over patches of frames, in one direction (`gru_stream`, which is causal) or in both (`gru_patches`).

The network of the Brain-to-Text '25 baseline (github.com/Neuroprosthetics-Lab/nejm-brain-to-text): patches of 14
frames every 4, five unidirectional GRU layers, dropout on the input. The baseline's layer for each day is available for
every model as --group-layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers.frames import FrameLayer, LockedDropout, Patches
from models.layers.lengths import Lengths
from models.layers.recurrent import Bidirectional, Unidirectional
from models.network import CTCNetwork, ModelConfig
from registry import InputError, register_model
from registry.bounds import number


@dataclass(frozen=True, kw_only=True)
class PatchConfig(ModelConfig):
    """Patches of frames, then GRU layers."""

    patch: int = number(14, at_least=1, at_most=1000, search_factor=2)
    """Frames stacked into one input of the first layer; at least --stride."""
    stride: int = number(4, at_least=1, at_most=100)
    """Frames from one patch to the next: input frames per output frame."""
    hidden: int = number(704, at_least=1, at_most=16_384, scale="log", search_factor=2)
    """Units per recurrent layer and direction."""
    layers: int = number(5, at_least=1, at_most=100, search_factor=2)
    """Number of recurrent layers."""
    dropout: float = number(0.4, at_least=0, below=1, search=(0.0, 0.5))
    """Locked dropout after each recurrent layer."""
    input_dropout: float = number(0.2, at_least=0, below=1, search=(0.0, 0.4))
    """Locked dropout of the patches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < self.stride:
            raise InputError(
                f"--patch {self.patch} --stride {self.stride}: expected patches of at least {self.stride} frames, so "
                "that none is skipped"
            )


class DroppedPatches(Patches):
    """Patches of frames with locked dropout."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__(config.features, config.patch, config.stride)
        self.dropout = LockedDropout(config.input_dropout)

    def forward(self, x: Tensor, lengths: Lengths) -> tuple[Tensor, Lengths]:
        """`(N, T, D)` → `(N, ceil(T / stride), size D)`."""
        x, lengths = super().forward(x, lengths)
        return self.dropout(x), lengths


def patch_network(config: PatchConfig, direction: type[Unidirectional] | type[Bidirectional]) -> CTCNetwork:
    """The network with layers in one or in both directions; intermediate CTC reads the middle one."""
    layers: list[FrameLayer] = [DroppedPatches(config)]
    for _ in range(config.layers):
        layers.append(direction(layers[-1].out_features, config.hidden, cell="gru", dropout=config.dropout))
    return CTCNetwork(config, layers, intermediate_after=1 + (config.layers + 1) // 2)


@register_model(
    "gru_stream_small",
    tags=("recurrent", "causal", "cpu"),
    patch=8,
    hidden=256,
    layers=3,
    dropout=0.1,
    input_dropout=0.1,
)
def gru_stream_small(config: PatchConfig) -> nn.Module:
    """Patches of 8 frames every 4, 3 GRU of 256 in one direction, causal: trains on two CPU cores."""
    return patch_network(config, Unidirectional)


@register_model("gru_stream", tags=("recurrent", "causal"))
def gru_stream(config: PatchConfig) -> nn.Module:
    """Patches of 14 frames every 4, 5 GRU of 704 in one direction: causal."""
    return patch_network(config, Unidirectional)


@register_model("gru_patches", tags="recurrent", hidden=416, layers=4, dropout=0.3)
def gru_patches(config: PatchConfig) -> nn.Module:
    """Patches of 14 frames every 4, 4 BiGRU of 416."""
    return patch_network(config, Bidirectional)
