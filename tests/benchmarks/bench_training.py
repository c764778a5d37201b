"""Training speed of each model beside other ways to compute the same, measured in one run.

`python tests/benchmarks/bench_training.py [PATTERN] [--kinds padded,packed,bf16,compiled]` prints input frames per
CPU-second of forward and backward, the median of several alternating steps, and each way's time as a multiple of
ours. "padded" runs recurrent layers over the padding too: its results are wrong for the backward direction, but its
speed is the limit for recurrence over padded batches. "packed" gives the results that ours must equal. "bf16" is ours
under autocast. "compiled" is ours through `torch.compile`, whose first step compiles in processes of its own, so its
wall time is reported.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from folds.data.batches import Batch
from folds.training.objective import Objective
from models import create_model
from models.layers import recurrent
from models.layers.lengths import Lengths
from models.layers.recurrent import Bidirectional, PackedFrames
from registry import list_models
from registry.console import print_table, track

FEATURES, CLASSES = 28, 41
Layer = Callable[[Bidirectional, Tensor, Tensor], tuple[Tensor, Tensor]]


def padded(layer: Bidirectional, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The layer as if all utterances were as long as the batch."""
    return layer.dropout(layer.rnn(x)[0]), lengths


def packed(layer: Bidirectional, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The layer by `pack_padded_sequence`."""
    return recurrent.padded(layer.over_packed(PackedFrames.of(x, Lengths.of(lengths)))), lengths


def a_batch(utterances: int, frames: int) -> Batch:
    """Utterances of 80 to 100 % of `frames`, as in bucketed batches, with one label per 8 frames."""
    torch.manual_seed(0)
    lengths = torch.linspace(0.8 * frames, frames, utterances).long()
    labels = lengths // 8
    targets = torch.randint(1, CLASSES, (int(labels.sum()),))
    return Batch(torch.randn(utterances, frames, FEATURES), lengths, targets, labels, tuple(range(utterances)))


KINDS: dict[str, Layer | None] = {"ours": None, "padded": padded, "packed": packed, "bf16": None, "compiled": None}


def variant(name: str, kind: str) -> nn.Module:
    """The model's objective, computed in one of the ways; all have equal weights."""
    torch.manual_seed(0)
    model = create_model(name, features=FEATURES, classes=CLASSES)
    forward = KINDS[kind]
    for layer in model.modules():
        if forward is not None and isinstance(layer, Bidirectional):
            setattr(layer, "forward", types.MethodType(forward, layer))  # noqa: B010 - mypy refuses an assignment
    module: nn.Module = Objective(model, intermediate=0.3 if model.has_intermediate else 0.0, consistency=0.0)
    if kind == "compiled":
        module.compile(dynamic=True)
    return module


def step(module: nn.Module, batch: Batch, kind: str) -> float:
    """CPU seconds of one forward and backward."""
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        loss = module(batch)[0]
    loss.backward()
    module.zero_grad(set_to_none=True)
    return time.process_time() - start


def benchmark(name: str, kinds: list[str], batch: Batch, steps: int) -> list[str]:
    """The model's row of the table."""
    modules, first_step = {kind: variant(name, kind) for kind in kinds}, {}
    for kind, module in modules.items():
        start = time.perf_counter()
        step(module, batch, kind)
        first_step[kind] = time.perf_counter() - start
    rounds = [{kind: step(modules[kind], batch, kind) for kind in kinds} for _ in range(steps)]
    seconds = {kind: statistics.median(times[kind] for times in rounds) for kind in kinds}
    frames = int(batch.lengths.sum())
    cells = [f"{frames / seconds[kind]:.0f}" for kind in kinds]
    cells += [f"{seconds[kind] / seconds['ours']:.2f}" for kind in kinds[1:]]
    return [name, *cells, *([f"{first_step['compiled']:.0f}"] if "compiled" in kinds else [])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
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
    print(f"{options.utterances} utterances of up to {options.frames} frames, 1 thread; input frames per CPU-second")
    rows = [benchmark(name, kinds, batch, options.steps) for name in track(list_models(options.pattern), "benchmark")]
    header = ["model", *kinds, *(f"{kind}/ours" for kind in kinds[1:])]
    print_table([*header, *(["compiling, s"] if "compiled" in kinds else [])], rows)


if __name__ == "__main__":
    main()
