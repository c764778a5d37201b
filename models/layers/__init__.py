"""Layers that models are built from."""

from models.layers.attention_decoder import Speller
from models.layers.frames import (
    Convolution,
    FrameLayer,
    FrameNorm,
    LockedDropout,
    Patches,
    Pyramid,
    ResidualConvolution,
    output_lengths,
    valid,
    zero_padding,
)
from models.layers.lengths import Lengths
from models.layers.recurrent import Bidirectional, Unidirectional

__all__ = [
    "Bidirectional",
    "Convolution",
    "FrameLayer",
    "FrameNorm",
    "Lengths",
    "LockedDropout",
    "Patches",
    "Pyramid",
    "ResidualConvolution",
    "Speller",
    "Unidirectional",
    "output_lengths",
    "valid",
    "zero_padding",
]
