"""The GRU family: the network of `lstm.py` with GRU layers, which have a quarter fewer weights per unit."""

from __future__ import annotations

from torch import nn

from models.lstm import RecurrentConfig, recurrent_network
from registry import register_model


@register_model("gru_small", tags=("recurrent", "cpu"), hidden=176, dropout=0.1)
def gru_small(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 3 BiGRU of 176: trains on two CPU cores."""
    return recurrent_network(config, "gru")


@register_model("gru", tags="recurrent", channels=(256, 384), hidden=448, layers=4, dropout=0.3)
def gru(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiGRU of 448."""
    return recurrent_network(config, "gru")


@register_model("gru_large", tags="recurrent", channels=(256, 512), hidden=536, layers=4, dropout=0.35)
def gru_large(config: RecurrentConfig) -> nn.Module:
    """Two stride-2 convolutions, 4 BiGRU of 536: 19.7 M parameters."""
    return recurrent_network(config, "gru")
