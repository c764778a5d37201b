"""The fitting loop: one model, one fold. Stopped or killed at any moment and run again, it ends in the same metrics.

A step's random numbers follow from seed, process and step. A checkpoint is written after each epoch, every few minutes
of a long one, and when the run is told to stop.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch

from folds.data.augmentation import augment
from folds.data.batches import Batch, padding_share, plan, prefetched
from folds.data.dataset import Dataset, Split
from folds.store import checkpoint
from folds.training.distributed import ProcessGroup
from folds.training.metrics_logger import MetricsLogger
from folds.training.objective import log_prior
from folds.training.options import TrainingRecipe
from folds.training.precision import autocast_dtype
from folds.training.predict import greedy_distances, predict
from folds.training.schedule import Budget, learning_rate
from folds.training.signals import SignalCatcher, Stopped
from folds.training.state import State
from models import CTCNetwork
from registry import InputError

# Steps with a loss that is no number are skipped; so many in a row mean that the run is lost. fp16 needs some to find
# its scale, which begins at 2 ** 16 and is halved after each.
MAX_NONFINITE_STEPS = 20
# Held-out utterances scored each epoch, to be seen while training; the whole fold is scored at the end.
WATCHED_UTTERANCES = 150
# At most so much work is lost to a kill.
SAVE_SECONDS = 600.0


@dataclass(frozen=True)
class TrainingTask:
    """What one run trains on: utterances to fit and, held out, those to predict, as indices into the train split."""

    dataset: Dataset
    fitted: np.ndarray
    held_out: np.ndarray
    seed: int
    device: torch.device
    folder: Path
    title: str
    group: ProcessGroup = ProcessGroup()
    start: Literal["random", "given", "checkpoint"] = "random"
    """Where a run without a checkpoint begins: from weights at random, from those the model comes with, or nowhere."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def watched(self) -> tuple[Split, np.ndarray]:
        """What is scored while training: the held-out utterances; dev where none are held out."""
        dataset = self.dataset
        if len(self.held_out):
            return dataset.train, self.held_out
        return dataset.dev, np.arange(len(dataset.dev))

    def batches(self, recipe: TrainingRecipe, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as positions in `fitted`."""
        lengths = self.dataset.train.lengths[self.fitted]
        return plan(lengths, frames=recipe.batch_frames, seed=self.seed, epoch=epoch)


def fit(model: CTCNetwork, task: TrainingTask, recipe: TrainingRecipe) -> None:
    """Fit `model` in place, from the newest checkpoint under `task.folder` where there is one.

    Writes checkpoint/, metrics.jsonl, timing.jsonl and tensorboard/ under the folder. Raises Stopped after SIGTERM or
    Ctrl-C, when the state is saved; InputError when losses are no numbers for too long.
    """
    if task.start == "random" and recipe.prior:
        _start_from_prior(model, task)
    state = State(model, recipe, task.device, task.seed, task.group)
    resumed = state.restore(task.checkpoints)
    if not resumed and task.start == "checkpoint":
        raise InputError(f"{task.checkpoints}: no whole checkpoint is left: delete {task.folder} and restart it again")
    at = state.at
    epochs = recipe.epochs if recipe.minutes is None else None
    budget = Budget(recipe, sum(-(-len(task.batches(recipe, e + 1)) // recipe.accumulate) for e in range(epochs or 1)))
    task.group.wait()  # all have read the checkpoint before the first writes another
    done = budget.progress(at.step, at.elapsed)
    journal = None
    if task.group.first:
        _announce(task, recipe, budget, f", going on after step {at.step}" if resumed else "")
        journal = MetricsLogger(task.folder, task.title, at.epoch - 1, at.step, done)
    with SignalCatcher() as interrupts, journal or contextlib.nullcontext():
        while budget.progress(at.step, at.elapsed) < 1:
            _epoch(state, task, recipe, budget, journal, interrupts)
            _close_epoch(state, task, recipe, journal, epochs)
    if recipe.select == "best":
        checkpoint.load_weights(task.checkpoints / "best.safetensors", model)
    elif state.average is not None:
        state.average.store()


def _epoch(
    state: State, task: TrainingTask, recipe: TrainingRecipe, budget: Budget, journal: MetricsLogger | None, interrupts: SignalCatcher
) -> None:
    """The rest of the epoch in hand, or as much of it as the budget holds."""
    at, group = state.at, task.group
    saved = time.monotonic()
    if journal is not None:
        journal.begin_epoch()
    state.model.train()
    planned = [task.fitted[chosen] for chosen in task.batches(recipe, at.epoch)[at.position :]]
    arriving = prefetched(task.dataset.train, [group.share(batch) for batch in planned])
    for start in range(0, len(planned), recipe.accumulate):
        progress = budget.progress(at.step, at.elapsed)
        if progress >= 1:
            return
        for each in state.optimizer.param_groups:
            each["lr"] = learning_rate(progress, recipe)
        shares = [(next(arriving), group.weight(batch)) for batch in planned[start : start + recipe.accumulate]]
        loss, stop = _step(state, task, recipe, shares, interrupts)
        spent = group.same(budget.tick())
        at.step, at.position, at.elapsed = at.step + 1, at.position + len(shares), at.elapsed + spent
        if state.average is not None:
            state.average.update(at.step, budget.total_steps(at.step, at.elapsed))
        if journal is not None:
            frames = sum(int(batch.lengths.sum()) for batch, _ in shares) * group.size
            journal.step(budget.progress(at.step, at.elapsed), frames, loss)
        if group.first and (stop or time.monotonic() - saved > SAVE_SECONDS):
            state.save(task.checkpoints)
            saved = time.monotonic()
        if stop:
            group.wait()
            raise Stopped(interrupts.caught or signal.SIGTERM)


def _step(
    state: State, task: TrainingTask, recipe: TrainingRecipe, shares: Sequence[tuple[Batch, float]], interrupts: SignalCatcher
) -> tuple[float, bool]:
    """Mask, forward, backward, update: (loss, whether any process was told to stop).

    `shares` are this process's parts of the batches that make the step, with their weights. A step whose loss or
    gradient is no number changes nothing.
    """
    state.begin_step()
    autocast = autocast_dtype(recipe.precision, task.device)
    own = [weight * float(batch.target_lengths.sum()) for batch, weight in shares]
    (labels,) = task.group.total(sum(own))
    state.optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for (batch, _), count in zip(shares, own, strict=True):
        views = augment(batch, recipe.augment, state.model.stride, state.masks, views_of(recipe))
        with torch.autocast(task.device.type, dtype=autocast, enabled=autocast is not None):
            total, one = state.objective(views.to(task.device))
        # Losses are means over the share's labels, and gradients are averaged over processes.
        state.scaler.scale(total * (count * task.group.size / labels)).backward()
        loss += float(one) * count
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    loss, stop = task.group.total(loss, float(interrupts.caught is not None))
    finite = math.isfinite(loss) and bool(torch.isfinite(norm))
    state.at.nonfinite_steps = 0 if finite else state.at.nonfinite_steps + 1
    sums = {"loss": loss, "grad_norm": float(norm) * labels, "labels": labels} if finite else {"skipped": 1.0}
    for name, value in sums.items():
        state.at.sums[name] = state.at.sums.get(name, 0.0) + value
    if finite:
        state.scaler.step(state.optimizer)
    # After gradients too large for fp16 the next scale is half of this one.
    state.scaler.update()
    if state.at.nonfinite_steps == MAX_NONFINITE_STEPS:
        _give_up(task, shares[0][0])
    return loss / labels, stop > 0


def views_of(recipe: TrainingRecipe) -> int:
    """How many views of a batch a step sees."""
    return 2 if recipe.consistency else 1


def _give_up(task: TrainingTask, batch: Batch) -> NoReturn:
    names = ", ".join(task.dataset.train.ids[i] for i in batch.indices[:3])
    raise InputError(
        f"{task.title}: loss or gradient was no number {MAX_NONFINITE_STEPS} times in a row, last with {names}, …: "
        "delete the run's folder and try a smaller --lr, or --precision fp32"
    )


def _close_epoch(state: State, task: TrainingTask, recipe: TrainingRecipe, journal: MetricsLogger | None, epochs: int | None) -> None:
    """Score held-out utterances, write the epoch's metrics, then a checkpoint that begins the next epoch."""
    if journal is not None:
        _measure(state, task, recipe, journal, epochs)
    state.at.epoch += 1
    state.begin_epoch()
    if journal is not None:
        state.save(task.checkpoints)
    task.group.wait()


def _measure(state: State, task: TrainingTask, recipe: TrainingRecipe, journal: MetricsLogger, epochs: int | None) -> None:
    at, model, (split, chosen) = state.at, state.model, task.watched
    if recipe.select == "last":
        chosen = chosen[:: max(1, len(chosen) // WATCHED_UTTERANCES)]
    with state.average.applied() if state.average is not None else contextlib.nullcontext():
        guess = predict(
            model, split, chosen, frames=recipe.batch_frames, alphabet=task.dataset.alphabet.hash, device=task.device
        )
        lost = bool(np.isnan(guess.values).any())
        distance = None if lost else round(float(greedy_distances(guess, split, chosen).mean()), 4)
        if recipe.select == "best" and not lost and (at.best is None or distance < at.best):
            at.best = distance
            checkpoint.save_weights(task.checkpoints / "best.safetensors", model)
    labels = max(at.sums.get("labels", 0.0), 1.0)
    means = {name: round(at.sums.get(name, 0.0) / labels, 6) for name in ("loss", "grad_norm")}
    row = {"epoch": at.epoch, "step": at.step, **means, "skipped": int(at.sums.get("skipped", 0)), "held_out": distance}
    journal.epoch(f"{at.epoch}/{epochs}" if epochs else str(at.epoch), row, f"{len(chosen)} utterances, greedy")


def _start_from_prior(model: CTCNetwork, task: TrainingTask) -> None:
    split = task.dataset.train
    labels = np.concatenate([split.labels(i) for i in task.fitted])
    frames = int(model.output_lengths(torch.from_numpy(split.lengths[task.fitted])).sum())
    model.start_from_prior(log_prior(torch.from_numpy(labels), task.dataset.alphabet.classes, frames))


def _announce(task: TrainingTask, recipe: TrainingRecipe, budget: Budget, more: str) -> None:
    lengths = task.dataset.train.lengths[task.fitted]
    padding = 100 * padding_share(lengths, task.batches(recipe, 1))
    budgeted = f"{budget.steps} steps" if recipe.minutes is None else f"{recipe.minutes:g} {recipe.clock} minutes"
    print(
        f"{task.title}: {len(task.fitted)} utterances to fit, {len(task.held_out)} held out, {budgeted}, "
        f"padding {padding:.1f} %{more}",
        flush=True,
    )
