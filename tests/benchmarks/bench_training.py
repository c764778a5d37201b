"""Training speed of each variant beside the same network with packed sequences and with plain padding, in one run.

`python tests/benchmarks/bench_training.py [PATTERN] [--utterances N] [--frames T]` prints input frames per CPU-second
of forward and backward, the median of several steps taken in turn. Plain padding gives wrong results for the backward
direction: it is the floor of what padded recurrence can cost. Packing is what the result must equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types

import torch
from torch import Tensor

from folds.batches import Batch
from folds.objective import objective
from models.layers import Bidirectional
from registry import create_model, list_models

FEATURES, CLASSES = 28, 41


def padded(layer: Bidirectional, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The layer as if all utterances were as long as the batch."""
    return layer.dropout(layer.rnn(x)[0]), lengths


def packed(layer: Bidirectional, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The layer by `pack_padded_sequence`."""
    return layer.dropout(layer.packed(x, lengths)), lengths


def a_batch(utterances: int, frames: int) -> Batch:
    """Utterances of 80 to 100 % of `frames`, as bucketed batches hold them, a label for each 8 frames."""
    torch.manual_seed(0)
    lengths = torch.linspace(0.8 * frames, frames, utterances).long()
    labels = lengths // 8
    targets = torch.randint(1, CLASSES, (int(labels.sum()),))
    return Batch(torch.randn(utterances, frames, FEATURES), lengths, targets, labels, tuple(range(utterances)))


def variants(name: str) -> dict[str, torch.nn.Module]:
    """The model with each kind of recurrence, equal weights."""
    models = {}
    for kind, forward in (("ours", None), ("padded", padded), ("packed", packed)):
        torch.manual_seed(0)
        models[kind] = create_model(name, features=FEATURES, classes=CLASSES)
        for layer in models[kind].modules():
            if forward is not None and isinstance(layer, Bidirectional):
                layer.forward = types.MethodType(forward, layer)
    return models


def step(model: torch.nn.Module, batch: Batch) -> float:
    """CPU seconds of one forward and backward."""
    start = time.process_time()
    objective(model, batch, intermediate=0.3)[0].backward()
    model.zero_grad(set_to_none=True)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*_small")
    parser.add_argument("--utterances", type=int, default=10)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = a_batch(options.utterances, options.frames)
    total = int(batch.lengths.sum())
    print(f"{options.utterances} utterances of up to {options.frames} frames, 1 thread; input frames per CPU-second")
    print(f"{'model':16}  {'ours':>8}  {'padded':>8}  {'packed':>8}  ours/padded  packed/ours (time)")
    for name in list_models(options.pattern):
        models = variants(name)
        times: dict[str, list[float]] = {kind: [] for kind in models}
        for turn in range(options.steps + 1):
            for kind, model in models.items():
                spent = step(model, batch)
                if turn:  # the first turn warms up
                    times[kind].append(spent)
        middle = {kind: statistics.median(values) for kind, values in times.items()}
        speed = {kind: total / value for kind, value in middle.items()}
        print(
            f"{name:16}  {speed['ours']:8.0f}  {speed['padded']:8.0f}  {speed['packed']:8.0f}"
            f"  {middle['ours'] / middle['padded']:11.2f}  {middle['packed'] / middle['ours']:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
