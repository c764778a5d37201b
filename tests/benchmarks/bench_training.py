"""Training speed of each model beside other ways to compute the same, in one run.

`python tests/benchmarks/bench_training.py [PATTERN] [--kinds padded,packed,bf16,compiled]` prints input frames per
CPU-second of forward and backward, the median of several steps taken in turn, and each way's time as a multiple of
ours. Plain padding gives wrong results for the backward direction: it is the floor of what padded recurrence can cost.
Packing is what the result must equal. bf16 is ours under autocast, compiled is ours through `torch.compile`, whose
first step, which compiles in processes of its own, is told in seconds of time.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
from collections.abc import Callable

import torch
from torch import Tensor

from folds.data.batches import Batch
from folds.training.objective import Objective
from models.layers.recurrent import Bidirectional
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


KINDS: dict[str, Callable | None] = {"ours": None, "padded": padded, "packed": packed, "bf16": None, "compiled": None}


def variant(name: str, kind: str) -> torch.nn.Module:
    """The model's objective, computed in one of the ways; weights are equal."""
    torch.manual_seed(0)
    model = create_model(name, features=FEATURES, classes=CLASSES)
    for layer in model.modules():
        if KINDS[kind] is not None and isinstance(layer, Bidirectional):
            layer.forward = types.MethodType(KINDS[kind], layer)
    module = Objective(model, intermediate=0.3, consistency=0.0)
    return torch.compile(module, dynamic=True) if kind == "compiled" else module


def step(module: torch.nn.Module, batch: Batch, kind: str) -> float:
    """CPU seconds of one forward and backward."""
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        loss = module(batch)[0]
    loss.backward()
    module.zero_grad(set_to_none=True)
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*_small")
    parser.add_argument("--kinds", default="padded,packed")
    parser.add_argument("--utterances", type=int, default=10)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    kinds = ["ours", *options.kinds.split(",")]
    if not set(kinds) <= set(KINDS):
        parser.error(f"--kinds {options.kinds}: expected some of {','.join(list(KINDS)[1:])}")
    torch.set_num_threads(1)
    batch = a_batch(options.utterances, options.frames)
    total = int(batch.lengths.sum())
    print(f"{options.utterances} utterances of up to {options.frames} frames, 1 thread; input frames per CPU-second")
    print("".join([f"{'model':16}", *(f"{kind:>10}" for kind in kinds), *(f"{k + '/ours':>14}" for k in kinds[1:])]))
    for name in list_models(options.pattern):
        modules = {kind: variant(name, kind) for kind in kinds}
        first = {}
        for kind, module in modules.items():
            begun = time.perf_counter()
            step(module, batch, kind)
            first[kind] = time.perf_counter() - begun
        turns = [{kind: step(modules[kind], batch, kind) for kind in kinds} for _ in range(options.steps)]
        middle = {kind: statistics.median(turn[kind] for turn in turns) for kind in kinds}
        cells = [f"{total / middle[kind]:10.0f}" for kind in kinds]
        cells += [f"{middle[kind] / middle['ours']:14.2f}" for kind in kinds[1:]]
        told = f"  (compiling: {first['compiled']:.0f} s)" if "compiled" in kinds else ""
        print("".join([f"{name:16}", *cells, told]), flush=True)


if __name__ == "__main__":
    main()
