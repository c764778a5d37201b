"""The training loop of one run. Stopped or killed at any moment and run again, it ends with the same metrics.

A step's random numbers follow from seed, process and step. A checkpoint is written after each epoch, every few minutes
of a long one, and when a signal stops the run.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch

from folds.data.augmentation import augment
from folds.data.batches import Batch, padding_share, prefetched
from folds.store.checkpoint import save_weights
from folds.training.device import autocast_dtype
from folds.training.metrics_logger import MetricsLogger
from folds.training.objective import log_prior
from folds.training.predict import greedy_distances, predict
from folds.training.schedule import Budget, learning_rate
from folds.training.signals import SignalCatcher, Stopped
from folds.training.state import State
from folds.training.task import TrainingTask
from models import CTCModel
from models.weights_file import load_weights
from registry import InputError

# Steps with a non-finite loss or gradient are skipped; this many in a row mean that training has diverged. fp16 needs
# some to find its scale, which starts at 2 ** 16 and is halved after each.
MAX_NONFINITE_STEPS = 20
# Held-out utterances scored after each epoch, for monitoring; the whole fold is scored at the end.
WATCHED_UTTERANCES = 150
# A killed run loses at most this much work.
SAVE_SECONDS = 600.0


def fit(model: CTCModel, task: TrainingTask) -> None:
    """Train `model` in place, from the newest checkpoint in `task.folder` if there is one.

    Writes checkpoints, metrics, timings and TensorBoard files. Raises Stopped after SIGTERM or Ctrl-C, once the state
    is saved, and InputError after too many non-finite losses in a row.
    """
    recipe = task.recipe
    if task.start == "random" and recipe.prior:
        _start_from_prior(model, task)
    state = State(model, recipe, task.device, task.seed, task.group)
    resumed = state.restore(task.folder)
    if not resumed and task.start == "checkpoint":
        raise InputError(f"{task.folder.path}: no intact checkpoint is left: delete this folder and train again")
    counters = state.counters
    epochs = 0 if recipe.minutes is not None else recipe.epochs
    budget = Budget(recipe, sum(task.steps(epoch) for epoch in range(1, epochs + 1)))
    task.group.wait()  # all have read the checkpoint before the first process writes another
    logger = None
    if task.group.first:
        _announce(task, budget, resumed, counters.step)
        progress = budget.progress(counters.step, counters.elapsed)
        logger = MetricsLogger(task.folder, counters.epoch - 1, counters.step, progress)
    with SignalCatcher() as signals, logger or contextlib.nullcontext():
        while budget.progress(counters.step, counters.elapsed) < 1:
            _epoch(state, task, budget, logger, signals)
            _close_epoch(state, task, logger)
    if recipe.select == "best":
        load_weights(task.folder.best_weights, model)
    elif state.average is not None:
        state.average.copy_to_model()


def _epoch(
    state: State, task: TrainingTask, budget: Budget, logger: MetricsLogger | None, signals: SignalCatcher
) -> None:
    """The rest of the current epoch, or as much of it as the budget allows."""
    counters, group, recipe = state.counters, task.group, task.recipe
    saved = time.monotonic()
    if logger is not None:
        logger.begin_epoch()
    state.model.train()
    planned = [task.fitted[chosen] for chosen in task.batches(counters.epoch)[counters.position :]]
    prepared = prefetched(task.dataset.train, [group.share(batch) for batch in planned])
    for start in range(0, len(planned), recipe.accumulate):
        progress = budget.progress(counters.step, counters.elapsed)
        if progress >= 1:
            return
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = learning_rate(progress, recipe)
        shares = [(next(prepared), group.weight(batch)) for batch in planned[start : start + recipe.accumulate]]
        loss, stop = _step(state, task, shares, signals)
        counters.step += 1
        counters.position += len(shares)
        counters.elapsed += group.same(budget.tick())
        if state.average is not None:
            state.average.update(counters.step, budget.total_steps(counters.step, counters.elapsed))
        if logger is not None:
            frames = sum(int(batch.lengths.sum()) for batch, _ in shares) * group.size
            logger.step(budget.progress(counters.step, counters.elapsed), frames, loss)
        if group.first and (stop or time.monotonic() - saved > SAVE_SECONDS):
            state.save(task.folder)
            saved = time.monotonic()
        if stop:
            group.wait()
            raise Stopped(signals.caught or signal.SIGTERM)


def _step(
    state: State, task: TrainingTask, shares: Sequence[tuple[Batch, float]], signals: SignalCatcher
) -> tuple[float, bool]:
    """Forward, backward, update: (loss, whether a signal reached any process).

    `shares` are this process's parts of the batches of the step, with their weights. A step with a non-finite loss or
    gradient changes nothing.
    """
    state.begin_step()
    own_labels = [weight * float(batch.target_lengths.sum()) for batch, weight in shares]
    (labels,) = task.group.total(sum(own_labels))
    state.optimizer.zero_grad(set_to_none=True)
    loss = sum(_backward(state, task, batch, own, labels) for (batch, _), own in zip(shares, own_labels, strict=True))
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), task.recipe.clip)
    loss, stop = task.group.total(loss, float(signals.caught is not None))
    finite = math.isfinite(loss) and bool(torch.isfinite(norm))
    counters = state.counters
    counters.nonfinite_steps = 0 if finite else counters.nonfinite_steps + 1
    sums = {"loss": loss, "grad_norm": float(norm) * labels, "labels": labels} if finite else {"skipped": 1.0}
    for name, value in sums.items():
        counters.sums[name] = counters.sums.get(name, 0.0) + value
    if finite:
        state.scaler.step(state.optimizer)
    # After gradients too large for fp16 the scale is halved.
    state.scaler.update()
    if counters.nonfinite_steps == MAX_NONFINITE_STEPS:
        _give_up(task, shares[0][0])
    return loss / labels, stop > 0


def _backward(state: State, task: TrainingTask, batch: Batch, own_labels: float, labels: float) -> float:
    """Add the gradients of one batch, of which `own_labels` of the step's `labels` are; its CTC loss in nats."""
    recipe = task.recipe
    autocast = autocast_dtype(recipe.precision, task.device)
    views = augment(batch, recipe.augment, state.model.stride, state.masks, views=2 if recipe.consistency else 1)
    with torch.autocast(task.device.type, dtype=autocast, enabled=autocast is not None):
        total, ctc_loss = state.objective(views.to(task.device))
    # Losses are means over the share's labels, and gradients are averaged over processes.
    state.scaler.scale(total * (own_labels * task.group.size / labels)).backward()
    return float(ctc_loss) * own_labels


def _give_up(task: TrainingTask, batch: Batch) -> NoReturn:
    names = ", ".join(task.dataset.train.ids[i] for i in batch.indices[:3])
    raise InputError(
        f"{task.folder.title}: non-finite loss or gradient in {MAX_NONFINITE_STEPS} steps in a row, the last of them "
        f"with {names}, …: delete the run's folder and try a smaller --lr, or --precision fp32"
    )


def _close_epoch(state: State, task: TrainingTask, logger: MetricsLogger | None) -> None:
    """Score held-out utterances, write the epoch's metrics, then a checkpoint at the start of the next epoch."""
    if logger is not None:
        _measure(state, task, logger)
    state.counters.epoch += 1
    state.begin_epoch()
    if logger is not None:
        state.save(task.folder)
    task.group.wait()


def _measure(state: State, task: TrainingTask, logger: MetricsLogger) -> None:
    counters, model, recipe, (split, watched) = state.counters, state.model, task.recipe, task.watched
    if recipe.select == "last":
        watched = watched[:: max(1, len(watched) // WATCHED_UTTERANCES)]
    with state.average.applied() if state.average is not None else contextlib.nullcontext():
        log_probs = predict(
            model,
            split,
            watched,
            frames=recipe.batch_frames,
            alphabet_hash=task.dataset.alphabet.hash,
            device=task.device,
        )
        distance = None
        if not np.isnan(log_probs.values).any():
            distance = round(float(greedy_distances(log_probs, split, watched).mean()), 4)
        if recipe.select == "best" and distance is not None and (counters.best is None or distance < counters.best):
            counters.best = distance
            save_weights(task.folder.best_weights, model)
    labels = max(counters.sums.get("labels", 0.0), 1.0)
    means = {name: round(counters.sums.get(name, 0.0) / labels, 6) for name in ("loss", "grad_norm")}
    skipped = int(counters.sums.get("skipped", 0))
    row = {"epoch": counters.epoch, "step": counters.step, **means, "skipped": skipped, "held_out": distance}
    label = str(counters.epoch) if recipe.minutes is not None else f"{counters.epoch}/{recipe.epochs}"
    logger.epoch(label, row, f"{len(watched)} utterances, greedy")


def _start_from_prior(model: CTCModel, task: TrainingTask) -> None:
    split = task.dataset.train
    labels = np.concatenate([split.labels(i) for i in task.fitted])
    frames = int(model.output_lengths(torch.from_numpy(split.lengths[task.fitted])).sum())
    model.start_from_prior(log_prior(torch.from_numpy(labels), task.dataset.alphabet.classes, frames))


def _announce(task: TrainingTask, budget: Budget, resumed: bool, step: int) -> None:
    recipe = task.recipe
    padding = 100 * padding_share(task.dataset.train.lengths[task.fitted], task.batches(1))
    planned = f"{budget.steps} steps" if recipe.minutes is None else f"{recipe.minutes:g} {recipe.clock} minutes"
    print(
        f"{task.folder.title}: {len(task.fitted)} utterances to fit, {len(task.held_out)} held out, {planned}, "
        f"padding {padding:.1f} %" + (f", resumed after step {step}" if resumed else ""),
        flush=True,
    )
