"""Floating-point operations and sequential time steps of a model, counted from its layers."""

from __future__ import annotations

import numpy as np
from torch import nn

from models import CTCModel, CTCNetwork
from models.conformer import Attention
from registry import InputError

# For each matrix product of the forward pass, the backward pass computes two of the same size: the gradients with
# respect to the input and to the weights.
FORWARD_AND_BACKWARD = 3


def layer_flops(layer: nn.Module) -> int:
    """Operations of one layer's matrix products per output frame, forward only; 0 for layers of other types.

    A multiplication and the addition after it are two operations. With D inputs and H outputs or hidden units:

        Linear                        2 D H
        Conv1d with kernel size k     2 k (D / groups) H
        LSTM, per direction           2 · 4 H (D + H)
        GRU, per direction            2 · 3 H (D + H)

    These layers use every weight once per output frame, so each formula is twice the number of weights. Biases,
    activations, normalisation and dropout are not counted: memory bandwidth limits them, not arithmetic.
    """
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.RNNBase):
        return 0
    return 2 * sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim >= 2)


def attention_flops(attention: Attention, frames: np.ndarray) -> int:
    """Operations of `softmax(Q Kᵀ) V` over utterances of `frames` `(N,)` frames: `4 T² D` for each, D being the width.

    The projections are linear layers, which `layer_flops` counts.
    """
    return 4 * attention.output.in_features * int((frames**2).sum())


def forward_flops(network: CTCNetwork, lengths: np.ndarray) -> int:
    """Operations of a forward pass over utterances of `lengths` `(N,)` input frames.

    Padding is not counted, nor is the intermediate output layer.
    """
    stride, total, frames = 1, 0, lengths
    for layer in network.layers:
        stride *= int(layer.stride)
        frames = -(-lengths // stride)
        for part in layer.modules():
            total += layer_flops(part) * int(frames.sum())
            if isinstance(part, Attention):
                total += attention_flops(part, frames)
    return total + layer_flops(network.output) * int(frames.sum())


def recurrent_layers(network: CTCNetwork) -> list[tuple[nn.RNNBase, int]]:
    """The LSTM and GRU layers, each with its number of input frames per time step."""
    stride, found = 1, []
    for layer in network.layers:
        stride *= int(layer.stride)
        found += [(part, stride) for part in layer.modules() if isinstance(part, nn.RNNBase)]
    return found


def recurrent_steps(network: CTCNetwork, longest: int) -> int:
    """Sequential time steps of a forward pass over a batch whose longest utterance has `longest` input frames.

    Layers follow each other; the two directions of a layer do not depend on each other and count once. The backward
    pass has as many steps.
    """
    return sum(rnn.num_layers * -(-longest // stride) for rnn, stride in recurrent_layers(network))


def countable(name: str, model: CTCModel) -> CTCNetwork:
    """`model`, if the functions here count all of it; raises InputError if it is not just a chain of layers."""
    if not isinstance(model, CTCNetwork) or model.has_attention_scores:
        raise InputError(
            f"model '{name}': its operations cannot be counted: expected a chain of layers without an attention speller"
        )
    return model
