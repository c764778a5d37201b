"""The fitting loop: one model, one fold. Killed at any moment and run again, it ends in the same metrics.

An epoch's randomness follows from (seed, epoch) alone and a checkpoint is written after each epoch, so a resumed run
repeats what was lost. Clock readings differ from run to run; they go to timing.jsonl and not to metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from models import CTCNetwork
from registry import InputError, atomic_write

from . import checkpoint
from .augment import augment
from .batches import Batch, padding_share, plan, prefetched
from .cache import Dataset
from .objective import log_prior, objective
from .options import Recipe
from .predict import greedy_distances, predict

# Steps with a loss that is no number are skipped; so many in a row mean that the run is lost.
STREAK = 20
# Held-out utterances scored each epoch, to be seen while training; the whole fold is scored at the end.
GLIMPSE = 150


@dataclass(frozen=True)
class Task:
    """What one run trains on: utterances to fit and, held out, those to predict, as indices into the train split."""

    dataset: Dataset
    fitted: np.ndarray
    held_out: np.ndarray
    seed: int
    device: torch.device
    folder: Path
    title: str


@dataclass
class Progress:
    """Where a run stands; `total` follows from the plan, the rest goes into its checkpoints."""

    total: int
    step: int = 0
    best: float | None = None
    streak: int = 0

    def skip(self, task: Task, batch: Batch) -> None:
        """Count a step whose loss or gradient is no number. Raises InputError after too many in a row."""
        self.streak += 1
        if self.streak == STREAK:
            names = ", ".join(task.dataset.train.ids[i] for i in batch.indices[:3])
            raise InputError(
                f"{task.title}: loss or gradient was no number {STREAK} times in a row, last with {names}, …: "
                "delete the run's folder and try a smaller --lr, or --precision fp32"
            )


def fit(model: CTCNetwork, task: Task, recipe: Recipe) -> None:
    """Fit `model` in place, from the newest checkpoint under `task.folder` where there is one.

    Writes checkpoint/, metrics.jsonl, timing.jsonl and tensorboard/ under the folder.
    """
    split, device = task.dataset.train, task.device
    lengths = split.lengths[task.fitted]
    plans = [plan(lengths, frames=recipe.batch_frames, seed=task.seed, epoch=e) for e in range(1, recipe.epochs + 1)]
    total = sum(len(batches) for batches in plans)
    optimizer = _optimizer(model, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    folder = task.folder / "checkpoint"
    labels = np.concatenate([split.labels(i) for i in task.fitted])
    frames = int(model.output_lengths(torch.from_numpy(lengths)).sum())
    model.start_from_prior(log_prior(torch.from_numpy(labels), task.dataset.alphabet.classes, frames))
    done, state = checkpoint.load(folder, model, optimizer) or (0, {"progress": {}, "scaler": {}})
    progress = Progress(total=total, **state["progress"])
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    for name in ("metrics.jsonl", "timing.jsonl"):
        _truncate(task.folder / name, done)
    print(
        f"{task.title}: {len(task.fitted)} utterances to fit, {len(task.held_out)} held out, {total} steps, "
        f"padding {100 * padding_share(lengths, plans[0]):.1f} %" + (f", going on after epoch {done}" if done else ""),
        flush=True,
    )
    glimpse = task.held_out[:: max(1, len(task.held_out) // GLIMPSE)] if recipe.select == "last" else task.held_out
    bar = tqdm(total=total, initial=progress.step, unit="step", desc=task.title, disable=None, smoothing=0.1)
    with _tensorboard(task.folder, progress.step) as board, bar:
        for epoch in range(done + 1, recipe.epochs + 1):
            clock, cpu = time.perf_counter(), time.process_time()
            sums = _epoch(model, optimizer, scaler, task, recipe, epoch, plans[epoch - 1], progress, bar)
            guess = predict(
                model, split, glimpse, frames=recipe.batch_frames, alphabet=task.dataset.alphabet.hash, device=device
            )
            lost = np.isnan(guess.values).any()
            distance = math.inf if lost else float(greedy_distances(guess, split, glimpse).mean())
            row = {"epoch": epoch, "step": progress.step, **sums, "held_out": None if lost else round(distance, 4)}
            _append(task.folder / "metrics.jsonl", row)
            wall, spent = time.perf_counter() - clock, time.process_time() - cpu
            speed = float(lengths.sum()) / wall
            timing = {"wall_s": round(wall, 1), "cpu_s": round(spent, 1), "frames_per_s": round(speed)}
            _append(task.folder / "timing.jsonl", {"epoch": epoch, **timing})
            for key, value in {**row, **timing, "held_out": distance}.items():
                board.add_scalar(key, value, progress.step)
            bar.set_postfix(loss=f"{sums['loss']:.3f}", distance=f"{distance:.2f}", frames_s=f"{speed:.0f}")
            seen = f"{len(glimpse)} utterances, greedy"
            bar.write(
                f"{task.title} epoch {epoch}/{recipe.epochs}: loss {sums['loss']:.4f}, "
                f"held-out distance {distance:.2f} ({seen}), {speed:.0f} frames/s, {spent / 60:.1f} CPU-minutes"
            )
            if recipe.select == "best" and (progress.best is None or distance < progress.best):
                progress.best = distance
                checkpoint.save_weights(folder / "best.safetensors", model)
            kept = {"step": progress.step, "best": progress.best, "streak": progress.streak}
            checkpoint.save(folder, epoch, model, optimizer, {"progress": kept, "scaler": scaler.state_dict()})
    if recipe.select == "best":
        checkpoint.load_weights(folder / "best.safetensors", model)


def _epoch(
    model: CTCNetwork,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    task: Task,
    recipe: Recipe,
    epoch: int,
    batches: list[np.ndarray],
    progress: Progress,
    bar: tqdm,
) -> dict[str, float]:
    """One pass over the fitted utterances; returns the epoch's metrics."""
    torch.manual_seed(task.seed * 1_000_003 + epoch)
    generator = torch.Generator().manual_seed(task.seed * 1_000_003 + epoch)
    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    model.train()
    sum_loss = sum_norm = weight = 0.0
    skipped = 0
    for batch in prefetched(task.dataset.train, [task.fitted[chosen] for chosen in batches]):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(progress.step / progress.total, recipe.warmup)
        progress.step += 1
        bar.update()
        masked = augment(batch.features, batch.lengths, recipe.augment, generator)
        moved = replace(batch, features=masked).to(task.device)
        with torch.autocast(task.device.type, dtype=autocast, enabled=autocast is not None):
            total_loss, loss = objective(model, moved, intermediate=recipe.intermediate)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total_loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        # The scaler looks for infinite gradients itself, and lowers its scale when it finds some.
        if not scaler.is_enabled() and not (torch.isfinite(total_loss) and torch.isfinite(norm)):
            skipped += 1
            progress.skip(task, batch)
            continue
        progress.streak = 0
        scaler.step(optimizer)
        scaler.update()
        count = float(batch.target_lengths.sum())
        sum_loss, sum_norm, weight = sum_loss + float(loss) * count, sum_norm + float(norm) * count, weight + count
    metrics = {"loss": sum_loss / max(weight, 1.0), "grad_norm": sum_norm / max(weight, 1.0)}
    return {key: round(value, 6) for key, value in metrics.items()} | {"skipped": skipped}


def schedule(progress: float, warmup: float) -> float:
    """Share of the highest learning rate at `progress` 0 to 1: linear warm-up, then a cosine to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _optimizer(model: CTCNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    # Decay pulls matrices towards 0; on biases and norms' gains it does harm.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _truncate(path: Path, epochs: int) -> None:
    """Keep the first `epochs` lines: what follows was measured after the checkpoint, and will be again."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run that fits needs it

    board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
    try:
        yield board
    finally:
        board.close()
