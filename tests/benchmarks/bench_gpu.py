"""Training speed on a GPU, beside its peak and beside the recurrent layers alone.

    python tests/benchmarks/bench_gpu.py                               the base and large models
    python tests/benchmarks/bench_gpu.py --data DIR --train 10         then trains for 10 minutes, prints the distance
    python tests/benchmarks/bench_gpu.py --estimate                    an estimate of GPU-hours, which needs no GPU
    python tests/benchmarks/bench_gpu.py --device cpu --models pblstm_small --frames 2000 --quick       tries the script

Options after `--` go to the training command: `--train 10 -- --precision fp16 --batch-frames 64000`.

A step is the training loop's own: copy to the device, forward, loss, backward, clipping and update. Batches are
planned and augmented as in training, but beforehand; preparing them, averaging weights, prediction and checkpoints are
only part of `--train`, whose frames/s can be compared with the table's.

    frames/s              input frames per second, without padding
    share of peak         counted operations per second, relative to the device's peak in this precision
    RNN alone, frames/s   forward and backward of the model's LSTM or GRU layers as nn.LSTM or nn.GRU, on padded input
    of RNN alone          the first of these speeds relative to the second; at 100 % the rest of the step costs nothing
    host syncs per step   operations for which the host waits for the device; on CUDA as PyTorch reports them

"-" is shown where there is nothing to measure, and in rows for which the device has too little memory.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from gpu_estimate import CLASSES, FEATURES, MODELS, estimate_lines, shape_only, table_head, table_line
from gpu_peaks import peak
from operation_counts import FORWARD_AND_BACKWARD, countable, forward_flops, recurrent_layers
from training_steps import (
    MEAN_FRAMES,
    Case,
    Part,
    RNNAlone,
    TrainingStep,
    available_precisions,
    float32_arithmetic,
    seconds,
)

from folds.store.fold_model import FoldModel, find_fold_models
from folds.store.schemas import SummaryFile
from folds.training.device import device_name, pick_device
from folds.training.distributed import ProcessGroup
from models import CTCNetwork, create_model
from registry import InputError, command
from registry.bounds import Bounded, number
from registry.command_line import parse_options
from registry.errors import is_out_of_memory
from registry.json_files import read_json

ROOT = Path(__file__).parents[2]
FRAMES = (16_000, 64_000, 128_000)
COLUMNS = (
    "model",
    "frames per batch",
    "precision",
    "frames/s",
    "share of peak",
    "RNN alone, frames/s",
    "of RNN alone",
    "host syncs per step",
    "GPU memory, GB",
)
MISSING = "-"
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Options(Bounded):
    """Measure training speed on a GPU. Options after `--` go to the training command."""

    device: str = "auto"
    """auto (CUDA, or nothing is measured), cuda, cuda:1 or cpu."""
    models: tuple[str, ...] = MODELS
    """Models to measure."""
    frames: tuple[int, ...] = number(FRAMES, at_least=1, at_most=100_000_000)
    """Frames per batch, padding included."""
    precisions: tuple[Precision, ...] = ()
    """By default, all that the device has and that the model is trained in there."""
    quick: bool = False
    """2 steps per row instead of 10."""
    estimate: bool = False
    """Print an estimate of GPU-hours and measure nothing."""
    train: float | None = number(None, above=0, at_most=100_000)
    """Also train on `data` for this many minutes."""
    train_model: str = "pblstm"
    """The model to train."""
    data: Path | None = None
    """The competition's folder; HW3P2_DATA by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models:
            shape_only(name)  # a name that cannot be measured is refused before the first row


def row(case: Case) -> list[str]:
    """The row of the table; figures are "-" if the device has too little memory."""
    try:
        with float32_arithmetic(case.precision):
            figures = measured(case)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        figures = [MISSING] * (len(COLUMNS) - 3)
    gc.collect()
    if case.device.type == "cuda":
        torch.cuda.empty_cache()
    return [case.model, f"{case.frames:,}", case.precision, *figures]


def measured(case: Case) -> list[str]:
    """The row's figures. Raises an error of `is_out_of_memory` if the device has too little memory."""
    network = countable(case.model, create_model(case.model, features=FEATURES, classes=CLASSES))
    parts, taken, syncs, memory = _step_figures(case, network)
    frames = sum(share.frames for share, _ in parts)
    flops = FORWARD_AND_BACKWARD * sum(forward_flops(network, batch.lengths.numpy()) for _, batch in parts)
    alone_speed = of_alone = MISSING
    if alone := _seconds_alone(case, network, parts):
        alone_speed, of_alone = f"{frames / alone:,.0f}", f"{100 * alone / taken:.0f} %"
    return [f"{frames / taken:,.0f}", _share_of_peak(flops / taken, case), alone_speed, of_alone, str(syncs), memory]


def _seconds_alone(case: Case, network: CTCNetwork, parts: list[Part]) -> float:
    """Seconds of the recurrent layers alone; 0 without any, and where PyTorch has none in this precision.

    oneDNN, which computes padded LSTM layers on a CPU, has them in bf16 only with AVX-512.
    """
    if not recurrent_layers(network):
        return 0.0
    try:
        return seconds(RNNAlone(case, network), parts, case)
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        return 0.0


def _step_figures(case: Case, network: CTCNetwork) -> tuple[list[Part], float, int, str]:
    """(the batches, seconds of a step on each, host syncs of one step, peak memory)."""
    cuda = case.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(case.device)
    step = TrainingStep(case, network)
    taken = seconds(step, step.parts, case)
    memory = f"{torch.cuda.max_memory_allocated(case.device) / 1e9:.1f}" if cuda else MISSING
    return step.parts, taken, step.host_syncs(), memory


def _share_of_peak(speed: float, case: Case) -> str:
    highest = peak(device_name(case.device), case.precision) if case.device.type == "cuda" else None
    return "unknown" if highest is None else f"{100 * speed / highest:.1f} %"


def describe(device: torch.device) -> str:
    """The device, and the versions of the libraries that decide its speed."""
    versions = f"torch {torch.__version__}, hw3p2-ensemble {importlib.metadata.version('hw3p2-ensemble')}"
    if device.type != "cuda":
        return f"{device_name(device)} ({device}), {torch.get_num_threads()} threads; {versions}"
    properties = torch.cuda.get_device_properties(device)
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB; {libraries}, {versions}"


def default_precisions(model: str, device: torch.device) -> list[str]:
    """The device's precisions, on CUDA without bf16 for recurrent models.

    Training refuses it there, and PyTorch before 2.10 computes their layers one time step at a time.
    """
    refused = ["bf16"] if device.type == "cuda" and recurrent_layers(shape_only(model)) else []
    return [precision for precision in available_precisions(device) if precision not in refused]


def print_speeds(options: Options, device: torch.device) -> None:
    """Print the table, each row as soon as it is measured."""
    warmup, steps = (1, 2) if options.quick else (3, 10)
    print(
        f"Random utterances of {MEAN_FRAMES:,} ± 400 frames, {FEATURES} features, {CLASSES} classes; about {steps} "
        f"steps after {warmup} for warm-up\n"
    )
    print("\n".join(table_head(COLUMNS)), flush=True)
    for model in options.models:
        for frames in options.frames:
            for precision in options.precisions or default_precisions(model, device):
                print(table_line(row(Case(model, frames, precision, device, warmup, steps))), flush=True)


def train(options: Options, device: torch.device, more: list[str]) -> int:
    """Train for `--train` minutes with `folds.train`; print the distances and the speed. The command's exit status."""
    data = [] if options.data is None else ["--data", options.data]
    with tempfile.TemporaryDirectory() as runs:
        arguments = ["--model", options.train_model, "--minutes", options.train, "--device", device, *data, *more]
        run = [sys.executable, "-m", "folds.train", *map(str, arguments), "--runs", runs]
        print(f"\n{' '.join(run[1:-2])}", flush=True)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        status = subprocess.run(run, env=environment, check=False).returncode
        if status == 0:
            for fold_model in find_fold_models(Path(runs)):
                print(f"{fold_model.name}, fold {fold_model.fold}, {options.train:g} minutes: {_outcome(fold_model)}")
    return status


def _outcome(fold_model: FoldModel) -> str:
    """The distances of a run and the speed of its training loop."""
    epochs = [json.loads(line) for line in fold_model.folder.timing.read_text(encoding="utf-8").splitlines()]
    wall = sum(epoch["wall_s"] for epoch in epochs)
    speed = sum(epoch["frames_per_s"] * epoch["wall_s"] for epoch in epochs) / max(wall, 0.1)
    distances = read_json(fold_model.folder.summary, SummaryFile).greedy_distance
    listed = ", ".join(f"{split} {distance:.3f}" for split, distance in distances.items())
    return f"greedy distance {listed}; {len(epochs)} epochs, {speed:,.0f} frames/s with everything the loop does"


def main() -> int:
    """Print what the options ask for; the exit status."""
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parse_options(Options, "bench_gpu.py", own)
    if more and options.train is None:
        raise InputError(f"{' '.join(more)}: options after -- are for the training command: pass --train MINUTES, too")
    if options.estimate:
        print("\n".join(estimate_lines()))
        return 0
    if options.device == "auto" and not torch.cuda.is_available():
        print("no CUDA device, so nothing is measured; --device cpu --models pblstm_small --quick tries the script")
        return 0
    device = pick_device("cuda" if options.device == "auto" else options.device, ProcessGroup())
    unavailable = set(options.precisions) - set(available_precisions(device))
    if unavailable:
        listed = ", ".join(available_precisions(device))
        raise InputError(f"--precisions {' '.join(sorted(unavailable))}: not on this device, which has {listed}")
    print(describe(device))
    print_speeds(options, device)
    return 0 if options.train is None else train(options, device, more)


if __name__ == "__main__":
    command(main)
