"""Weights of earlier runs keep their meaning: with the same weights, a network computes what it always has.

The numbers below were computed by the networks as they are. Where they change on purpose, weights files of earlier
versions no longer give the predictions that were stored with them.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from models import CTCModel, create_model

SIZES: dict[str, dict[str, Any]] = {
    "cnn_lstm_small": {"channels": 8, "blocks": 1, "hidden": 5, "layers": 1},
    "conformer_small": {"size": 8, "heads": 2, "blocks": 2, "kernel": 5},
    "gru_small": {"channels": (6, 7), "hidden": 5, "layers": 2},
    "gru_stream_small": {"hidden": 6, "layers": 2},
    "las_small": {"channels": 6, "bottom": 5, "hidden": 6, "layers": 1, "speller": 7, "attention": 5},
    "lstm_small": {"channels": (6, 7), "hidden": 5, "layers": 2},
    "pblstm_small": {"channels": 6, "bottom": 5, "hidden": 6, "layers": 1},
}


def waves(*shape: int, rate: float) -> torch.Tensor:
    """Numbers from -1 to 1 that no random number generator draws."""
    return (rate * torch.arange(math.prod(shape), dtype=torch.float64) ** 1.1).sin().float().view(shape)


def network(name: str) -> CTCModel:
    model = create_model(name, features=4, classes=5, **SIZES[name]).eval()
    with torch.no_grad():
        for number, values in enumerate(model.state_dict().values()):
            if values.is_floating_point():
                wave = waves(*values.shape, rate=1 + number / 7)
                values.copy_(wave * 2 / math.sqrt(values[0].numel()) if values.ndim > 1 else 1 + wave / 2)
    return model


def outputs(name: str) -> list[float]:
    """Log-probabilities in the middle of the shorter of two utterances, and the attention decoder's of a hypothesis."""
    model, x = network(name), 2 * waves(2, 29, 4, rate=0.7)
    with torch.no_grad():
        found = model.training_outputs(x, torch.tensor([29, 23]))
        values = [*found.log_probs[1, 2, :3].tolist(), *found.middle[1, 2, :2].tolist()]
        if model.has_attention_scores:
            values += model.attention_scores(x[0], [[1, 2, 2, 3]]).tolist()
    return values


EXPECTED = {
    "cnn_lstm_small": [-2.3007, -1.5548, -1.9675, -4.3531, -2.6535],
    "conformer_small": [-4.9958, -5.4415, -5.2559, -3.1704, -0.8874],
    "gru_small": [-3.5155, -0.6587, -2.3460, -1.0574, -2.2307],
    "gru_stream_small": [-1.5194, -1.3061, -2.2300, -1.4795, -1.3481],
    "las_small": [-3.5198, -4.9730, -7.2293, -1.3546, -4.2382, -11.7615],
    "lstm_small": [-4.6263, -1.2336, -1.2553, -1.4006, -2.5562],
    "pblstm_small": [-3.5198, -4.9730, -7.2293, -1.3546, -4.2382],
}


@pytest.mark.parametrize("name", SIZES)
def test_a_network_computes_from_its_weights_what_it_always_has(name):
    assert outputs(name) == pytest.approx(EXPECTED[name], abs=1e-3)
