"""The training loop of one run. A run stopped or killed at any moment and resumed ends with the same metrics.

On a CPU with a given `--threads` they are bit-identical; the default number of threads follows load and speed, and
sums round differently with another number of threads. A step's random numbers depend only on seed, process and step.
A checkpoint is written after each epoch and every few minutes of a long one, or at the intervals of `--save-every`, and
when a signal stops the run.
"""

from __future__ import annotations

import contextlib
import signal

import numpy as np
import torch

from folds.data.batches import padding_share, prefetched
from folds.store.checkpoint import save_weights
from folds.training.metrics_logger import MetricsLogger
from folds.training.objective import log_prior
from folds.training.predict import greedy_distances, predict
from folds.training.schedule import Budget, SaveTimer, learning_rate
from folds.training.shares import SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher, Stopped
from folds.training.state import State
from folds.training.step import train_step
from folds.training.step_metrics import MAX_NONFINITE_STEPS
from folds.training.task import TrainingTask
from models import CTCModel
from models.weights_file import load_weights
from registry import InputError


def fit(model: CTCModel, task: TrainingTask) -> None:
    """Train `model` in place, from the newest checkpoint in `task.folder` if there is one.

    Writes checkpoints, metrics and timings, and passes the metrics to the task's loggers. Raises Stopped after SIGTERM
    or Ctrl-C, once the state is saved, and InputError after too many consecutive non-finite losses.
    """
    recipe = task.recipe
    if task.start == "random" and recipe.prior:
        start_from_prior(model, task)
    state = State(model, recipe, task.device, task.seed, task.group)
    resumed = state.restore(task.folder)
    if not resumed and task.start == "checkpoint":
        raise InputError(f"{task.folder.path}: no intact checkpoint is left: delete this folder and train again")
    counters = state.counters
    epochs = 0 if recipe.minutes is not None else recipe.epochs
    budget = Budget(recipe, sum(task.steps(epoch) for epoch in range(1, epochs + 1)))
    task.group.wait()  # the first process writes a checkpoint only after all have read the last one
    logger, save_timer = None, SaveTimer(task.save_minutes)
    if task.group.first:
        _announce(task, budget, resumed, counters.step)
        progress = budget.progress(counters.step, counters.elapsed)
        logger = MetricsLogger(task.folder, counters.epoch - 1, counters.step, progress, task.loggers)
    with SignalCatcher(several=task.group.size > 1) as signals, logger or contextlib.nullcontext():
        # A run stopped after its last step resumes within its last epoch, which has not been evaluated yet.
        while budget.progress(counters.step, counters.elapsed) < 1 or counters.position > 0:
            _epoch(state, task, budget, logger, signals, save_timer)
            last = budget.progress(counters.step, counters.elapsed) >= 1
            _close_epoch(state, task, logger, save_timer, last)
        # A signal that arrived while the last epoch was evaluated: no further step checks for one.
        if task.group.any(signals.caught is not None):
            raise Stopped(signals.caught or signal.SIGTERM)
    if recipe.select == "best":
        load_weights(task.folder.best_weights, model)
    elif state.average is not None:
        state.average.copy_to_model()


def _epoch(
    state: State,
    task: TrainingTask,
    budget: Budget,
    logger: MetricsLogger | None,
    signals: SignalCatcher,
    save_timer: SaveTimer,
) -> None:
    """Train for the rest of the current epoch, or as much of it as the budget allows."""
    counters, group, recipe = state.counters, task.group, task.recipe
    if logger is not None:
        logger.begin_epoch(*counters.epoch_cost)
    state.model.train()
    shares = epoch_shares(task, counters)
    prepared = prefetched(SharePreparation(task, state.model.stride), shares)
    task.threads.begin()
    for start in range(0, len(shares), recipe.accumulate):
        progress = budget.progress(counters.step, counters.elapsed)
        if progress >= 1:
            return
        for parameters in state.optimizer.param_groups:
            parameters["lr"] = learning_rate(progress, recipe)
        parts = [(share, next(prepared)) for share in shares[start : start + recipe.accumulate]]
        stop, seconds = train_step(state, task, parts, signals, budget)
        frames = sum(share.frames for share, _ in parts)
        task.threads.adapt(frames)
        counters.step += 1
        counters.position += len(parts)
        counters.elapsed += seconds
        if state.average is not None:
            state.average.update(counters.step, budget.total_steps(counters.step, counters.elapsed))
        if state.metrics.due(counters.step):
            _read_metrics(state, task)
        if logger is not None and state.metrics.loss is not None:
            logger.step(budget.progress(counters.step, counters.elapsed), frames * group.size, state.metrics.loss)
        if group.first and (stop or save_timer.due()):
            task.check_lease()
            if logger is not None:
                counters.epoch_cost = logger.epoch_cost
            state.save(task.folder)
            save_timer.restart()
        if stop:
            group.wait()
            raise Stopped(signals.caught or signal.SIGTERM)


def _read_metrics(state: State, task: TrainingTask) -> None:
    """Add the metrics of the steps so far to the counters. Raises InputError if too many of them were not finite."""
    state.read_metrics()
    if state.metrics.diverged_at is not None:
        names = ", ".join(task.dataset.train.ids[i] for i in state.metrics.diverged_at)
        raise InputError(
            f"{task.folder.title}: non-finite loss or gradient in {MAX_NONFINITE_STEPS} steps in a row, the last of "
            f"them with {names}, …: delete the run's folder and try a smaller --lr, or --precision fp32"
        )


def _close_epoch(
    state: State, task: TrainingTask, logger: MetricsLogger | None, save_timer: SaveTimer, last: bool
) -> None:
    """Score held-out utterances and write the epoch's metrics and, if due, a checkpoint at the next epoch's start."""
    _read_metrics(state, task)
    if logger is not None:
        task.check_lease()
        _measure(state, task, logger)
    state.counters.epoch += 1
    state.begin_epoch()
    if logger is not None and (last or save_timer.due_after_epoch()):
        task.check_lease()  # evaluation takes minutes
        state.save(task.folder)
        save_timer.restart()
    task.group.wait()


def _measure(state: State, task: TrainingTask, logger: MetricsLogger) -> None:
    counters, model, recipe, (split, watched) = state.counters, state.model, task.recipe, task.watched
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
        if len(watched) and not np.isnan(log_probs.values).any():
            distance = round(float(greedy_distances(log_probs, split, watched).mean()), 4)
        if recipe.select == "best" and distance is not None and (counters.best is None or distance < counters.best):
            counters.best = distance
            save_weights(task.folder.best_weights, model)
    labels = counters.sums.get("labels")  # of steps that were not skipped, if there is one
    means = {name: round(counters.sums[name] / labels, 6) if labels else None for name in ("loss", "grad_norm")}
    skipped = int(counters.sums.get("skipped", 0))
    row = {"epoch": counters.epoch, "step": counters.step, **means, "skipped": skipped, "held_out": distance}
    label = str(counters.epoch) if recipe.minutes is not None else f"{counters.epoch}/{recipe.epochs}"
    measured = "held-out" if len(task.held_out) else "dev"
    logger.epoch(label, row, f"{measured} distance", f"{len(watched)} utterances, greedy" if len(watched) else "")


def start_from_prior(model: CTCModel, task: TrainingTask) -> None:
    """Initialise the biases of output layers with the classes' log-frequencies in the task's utterances."""
    split = task.dataset.train
    labels = np.concatenate([split.labels(i) for i in task.fitted])
    frames = int(model.output_lengths(torch.from_numpy(split.lengths[task.fitted])).sum())
    model.start_from_prior(log_prior(torch.from_numpy(labels), task.dataset.alphabet.classes, frames))


def _announce(task: TrainingTask, budget: Budget, resumed: bool, step: int) -> None:
    recipe = task.recipe
    padding = 100 * padding_share(task.dataset.train.lengths[task.fitted], task.batches(1))
    clock = "CPU" if recipe.clock == "cpu" else "wall"
    planned = f"{budget.steps} steps" if recipe.minutes is None else f"{recipe.minutes:g} min of {clock} time"
    print(
        f"{task.folder.title}: {len(task.fitted)} utterances to fit, {len(task.held_out)} held out, {planned}, "
        f"padding {padding:.1f} %" + (f", resumed after step {step}" if resumed else ""),
        flush=True,
    )
