"""The fitting loop: one model, one fold. Stopped or killed at any moment and run again, it ends in the same metrics.

An epoch's random numbers follow from seed and epoch, and checkpoints hold where they stand; one is written after each
epoch, every few minutes of a long one, and when the run is told to stop.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models import CTCNetwork
from registry import InputError

from . import checkpoint
from .augment import augment
from .batches import Batch, joined, padding_share, plan, prefetched
from .cache import Dataset
from .interrupt import Interrupts, Stopped
from .journal import Journal
from .objective import log_prior, objective
from .options import Recipe
from .predict import greedy_distances, predict
from .schedule import Budget, learning_rate
from .state import State

# Steps with a loss that is no number are skipped; so many in a row mean that the run is lost.
STREAK = 20
# Held-out utterances scored each epoch, to be seen while training; the whole fold is scored at the end.
GLIMPSE = 150
# At most so much work is lost to a kill.
SAVE_SECONDS = 600.0
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    def batches(self, recipe: Recipe, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as positions in `fitted`."""
        lengths = self.dataset.train.lengths[self.fitted]
        return plan(lengths, frames=recipe.batch_frames, seed=self.seed, epoch=epoch)


def fit(model: CTCNetwork, task: Task, recipe: Recipe) -> None:
    """Fit `model` in place, from the newest checkpoint under `task.folder` where there is one.

    Writes checkpoint/, metrics.jsonl, timing.jsonl and tensorboard/ under the folder. Raises Stopped after SIGTERM or
    Ctrl-C, when the state is saved; InputError when losses are no numbers for too long.
    """
    _start_from_prior(model, task)
    state = State(model, recipe, task.device, task.seed)
    resumed = state.restore(task.checkpoints)
    at = state.at
    epochs = recipe.epochs if recipe.minutes is None else None
    budget = Budget(recipe, sum(len(task.batches(recipe, epoch + 1)) for epoch in range(epochs or 1)))
    _announce(task, recipe, budget, f", going on after step {at.step}" if resumed else "")
    done = budget.progress(at.step, at.elapsed)
    with Interrupts() as interrupts, Journal(task.folder, task.title, at.epoch - 1, at.step, done) as journal:
        while budget.progress(at.step, at.elapsed) < 1:
            _epoch(state, task, recipe, budget, journal, interrupts)
            _close_epoch(state, task, recipe, journal, epochs)
    if recipe.select == "best":
        checkpoint.load_weights(task.checkpoints / "best.safetensors", model)
    elif state.average is not None:
        state.average.store()


def _epoch(
    state: State, task: Task, recipe: Recipe, budget: Budget, journal: Journal, interrupts: Interrupts
) -> None:
    """The rest of the epoch in hand, or as much of it as the budget holds."""
    at = state.at
    saved = time.monotonic()
    journal.begin_epoch()
    state.model.train()
    batches = [task.fitted[chosen] for chosen in task.batches(recipe, at.epoch)[at.position :]]
    for batch in prefetched(task.dataset.train, batches):
        progress = budget.progress(at.step, at.elapsed)
        if progress >= 1:
            return
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(progress, recipe)
        loss = _step(state, task, recipe, batch)
        at.step, at.position, at.elapsed = at.step + 1, at.position + 1, at.elapsed + budget.tick()
        if state.average is not None:
            state.average.update(at.step, budget.total_steps(at.step, at.elapsed))
        journal.step(budget.progress(at.step, at.elapsed), int(batch.lengths.sum()), loss)
        if interrupts.caught is not None:
            state.save(task.checkpoints)
            raise Stopped(interrupts.caught)
        if time.monotonic() - saved > SAVE_SECONDS:
            state.save(task.checkpoints)
            saved = time.monotonic()


def _step(state: State, task: Task, recipe: Recipe, batch: Batch) -> float:
    """Mask, forward, backward, update; returns the loss. A step whose loss or gradient is no number changes nothing."""
    count = 2 if recipe.consistency else 1
    views = [augment(batch, recipe.augment, state.model.stride, state.masks) for _ in range(count)]
    moved = joined(views).to(task.device)
    autocast = AUTOCAST[recipe.precision]
    with torch.autocast(task.device.type, dtype=autocast, enabled=autocast is not None):
        total, loss = objective(
            state.model, moved, intermediate=recipe.intermediate, consistency=recipe.consistency
        )
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(total).backward()
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
    # The scaler looks for infinite gradients itself, and lowers its scale when it finds some.
    if not state.scaler.is_enabled() and not (torch.isfinite(total) and torch.isfinite(norm)):
        _skip(state, task, batch)
        return float(loss)
    state.at.streak = 0
    state.scaler.step(state.optimizer)
    state.scaler.update()
    labels = float(batch.target_lengths.sum())
    for name, value in (("loss", float(loss) * labels), ("grad_norm", float(norm) * labels), ("labels", labels)):
        state.at.sums[name] = state.at.sums.get(name, 0.0) + value
    return float(loss)


def _skip(state: State, task: Task, batch: Batch) -> None:
    """Count a step that changed nothing. Raises InputError after too many in a row."""
    state.at.sums["skipped"] = state.at.sums.get("skipped", 0.0) + 1
    state.at.streak += 1
    if state.at.streak == STREAK:
        names = ", ".join(task.dataset.train.ids[i] for i in batch.indices[:3])
        raise InputError(
            f"{task.title}: loss or gradient was no number {STREAK} times in a row, last with {names}, …: "
            "delete the run's folder and try a smaller --lr, or --precision fp32"
        )


def _close_epoch(state: State, task: Task, recipe: Recipe, journal: Journal, epochs: int | None) -> None:
    """Score held-out utterances, write the epoch's metrics, then a checkpoint that begins the next epoch."""
    at, model, split = state.at, state.model, task.dataset.train
    chosen = task.held_out[:: max(1, len(task.held_out) // GLIMPSE)] if recipe.select == "last" else task.held_out
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
    at.epoch += 1
    state.begin_epoch()
    state.save(task.checkpoints)


def _start_from_prior(model: CTCNetwork, task: Task) -> None:
    split = task.dataset.train
    labels = np.concatenate([split.labels(i) for i in task.fitted])
    frames = int(model.output_lengths(torch.from_numpy(split.lengths[task.fitted])).sum())
    model.start_from_prior(log_prior(torch.from_numpy(labels), task.dataset.alphabet.classes, frames))


def _announce(task: Task, recipe: Recipe, budget: Budget, more: str) -> None:
    lengths = task.dataset.train.lengths[task.fitted]
    padding = 100 * padding_share(lengths, task.batches(recipe, 1))
    budgeted = f"{budget.steps} steps" if recipe.minutes is None else f"{recipe.minutes:g} {recipe.clock} minutes"
    print(
        f"{task.title}: {len(task.fitted)} utterances to fit, {len(task.held_out)} held out, {budgeted}, "
        f"padding {padding:.1f} %{more}",
        flush=True,
    )
