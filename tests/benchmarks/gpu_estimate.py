"""An estimate of the GPU-hours of training on the real data, from counted operations. Nothing is measured.

Two lower bounds per model and device: arithmetic, the operations of forward and backward at a fraction of the peak; and
latency, the time steps of recurrent layers, which must follow each other, at a published time per step. The estimate is
the larger one. docs/gpu_hours.md explains the assumptions and shows the tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gpu_peaks import peak
from operation_counts import FORWARD_AND_BACKWARD, countable, forward_flops, recurrent_steps

from folds.data.batches import plan
from models import CTCNetwork, create_model

FEATURES, CLASSES = 28, 41
MODELS = tuple(name + size for name in ("gru", "lstm", "pblstm", "cnn_lstm", "conformer") for size in ("", "_large"))
# The real training set: 100.6 hours, so 12.69 s per utterance, with 100 frames per second.
UTTERANCES, MEAN_FRAMES = 28_539, 1269
EPOCHS, BATCH_FRAMES = 200, 64_000
# What matrix products of these sizes reach in fp16, as a fraction of the peak: an assumption.
FRACTION = 0.3


@dataclass(frozen=True)
class Device:
    """A GPU of the estimate."""

    name: str
    cuda_name: str
    """The name in `gpu_peaks`."""
    step: tuple[float, float]
    """Microseconds per time step of a bidirectional layer, forward and backward together: a range."""


# Published: 20 to 30 µs per step and direction for nn.LSTM in fp16 on a GPU that is not named; 70 µs in fp32 on a GTX
# 1080. Low: both directions at the same time; high: one after the other. docs/gpu_hours.md has the sources.
DEVICES = (
    Device("T4", "Tesla T4", (30.0, 140.0)),
    Device("A100", "NVIDIA A100-SXM4-40GB", (20.0, 60.0)),
    Device("H100", "NVIDIA H100 80GB HBM3", (14.0, 60.0)),
)


def speech_lengths(count: int, mean: float, deviation: float = 400.0) -> np.ndarray:
    """Lengths like LibriSpeech's, int64 `(count,)`: quantiles of a normal distribution, within 200 to 2,450."""
    normal = statistics.NormalDist(mean, deviation)
    quantiles = [normal.inv_cdf((index + 0.5) / count) for index in range(count)]
    return np.clip(quantiles, 200, 2450).round().astype(np.int64)


def shape_only(name: str) -> CTCNetwork:
    """The model without its weights' values. Raises InputError if its operations cannot be counted."""
    with torch.device("meta"):
        return countable(name, create_model(name, features=FEATURES, classes=CLASSES))


def arithmetic_hours(network: CTCNetwork, lengths: np.ndarray, device: Device) -> float:
    """Hours of the operations of all epochs at `FRACTION` of the device's peak in fp16."""
    flops = peak(device.cuda_name, "fp16")
    assert flops is not None
    return EPOCHS * FORWARD_AND_BACKWARD * forward_flops(network, lengths) / (FRACTION * flops) / 3600


def latency_hours(network: CTCNetwork, longest: Sequence[int], device: Device) -> tuple[float, float]:
    """Hours of the sequential time steps of all epochs, for an epoch's batches with these longest utterances."""
    steps = EPOCHS * sum(recurrent_steps(network, frames) for frames in longest)
    low, high = (steps * microseconds / 1e6 / 3600 for microseconds in device.step)
    return low, high


def estimate_lines() -> Iterator[str]:
    """The lines of both tables, in Markdown: the work of each model, and its hours on each device."""
    lengths = speech_lengths(UTTERANCES, MEAN_FRAMES)
    batches = plan(lengths, frames=BATCH_FRAMES, seed=0, epoch=1)
    longest = [int(lengths[batch].max()) for batch in batches]
    networks = {name: shape_only(name) for name in MODELS}
    yield (
        f"{len(lengths):,} utterances, {lengths.sum() / 1e6:.1f} M frames; batches of up to {BATCH_FRAMES:,} frames: "
        f"{len(batches)} steps per epoch, longest utterance of a batch {np.mean(longest):,.0f} frames on average"
    )
    yield ""
    yield from table_head(["model", "parameters, M", "forward MFLOP per frame", "time steps per batch, forward"])
    for name, network in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        per_frame = forward_flops(network, lengths) / lengths.sum() / 1e6
        steps = np.mean([recurrent_steps(network, frames) for frames in longest])
        yield table_line([name, f"{parameters:.1f}", f"{per_frame:.2f}", f"{steps:,.0f}" if steps else "–"])
    yield ""
    yield from table_head([f"hours for {EPOCHS} epochs", *(device.name for device in DEVICES)])
    for name, network in networks.items():
        yield table_line([name, *(_hours(network, lengths, longest, device) for device in DEVICES)])


def _hours(network: CTCNetwork, lengths: np.ndarray, longest: Sequence[int], device: Device) -> str:
    """The cell "arithmetic · latency → estimate"."""
    arithmetic = arithmetic_hours(network, lengths, device)
    low, high = latency_hours(network, longest, device)
    if not high:
        return f"{arithmetic:.1f} · – → **{arithmetic:.1f}**"
    bounds = f"{max(arithmetic, low):.1f}–{max(arithmetic, high):.1f}"
    return f"{arithmetic:.1f} · {low:.1f}–{high:.1f} → **{bounds}**"


def table_head(header: Sequence[str]) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield table_line(header)
    yield "|" + "---|" * len(header)


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"
