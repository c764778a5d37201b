"""One training step: forward, backward, update. On CUDA the host waits for the device only in PyTorch's CTC loss.

Loss and gradient norm stay on the device, which also decides whether the step is skipped; see `STEPS_PER_READ`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from folds.data.augmentation import add_noise
from folds.data.batches import Batch
from folds.training.device import autocast_dtype, inference_dtype
from folds.training.schedule import Budget
from folds.training.shares import Share
from folds.training.signals import SignalCatcher
from folds.training.state import State
from folds.training.task import TrainingTask


def train_step(
    state: State, task: TrainingTask, parts: Sequence[tuple[Share, Batch]], signals: SignalCatcher, budget: Budget
) -> tuple[bool, float]:
    """Forward, backward, update: (whether a signal reached any process, seconds since the previous step).

    `parts` are this process's prepared shares of the step's batches. A step with a non-finite loss or gradient changes
    nothing.
    """
    state.begin_step()
    # Normalisation layers update their running statistics in the forward pass.
    statistics = [(buffer, buffer.clone()) for buffer in state.model.buffers()]
    labels = max(1, sum(share.batch_labels for share, _ in parts))  # a teacher's best hypotheses can all be empty
    state.optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), dtype=torch.float64, device=task.device)
    for number, (share, batch) in enumerate(parts, start=1):
        with task.group.averaged_gradients(state.objective, number == len(parts)):
            loss += _backward(state, task, batch, share.labels, labels)
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), task.recipe.clip)
    loss, stop, seconds = task.group.step_totals(loss, signals.caught is not None, budget.tick())
    _update(state, loss, norm, statistics)
    state.metrics.add(loss, norm, labels, parts[0][0].indices[:3])
    return stop, seconds


def _backward(state: State, task: TrainingTask, batch: Batch, own_labels: float, labels: float) -> Tensor:
    """Accumulate the gradients of one batch, with `own_labels` of the step's `labels`; return its CTC loss in nats."""
    dtype = autocast_dtype(task.precision)
    batch = add_noise(batch.to(task.device), task.recipe.augment)
    spikes = None
    if task.guide is not None:
        guide_dtype = inference_dtype(task.precision, task.device, task.guide.network)
        with torch.autocast(task.device.type, dtype=guide_dtype, enabled=guide_dtype is not None):
            spikes = task.guide.spikes(batch)
    with torch.autocast(task.device.type, dtype=dtype, enabled=dtype is not None):
        total, ctc_loss = state.objective(batch, spikes)
    # Losses are means over the share's labels, and gradients are averaged over processes.
    state.scaler.scale(total * (own_labels * task.group.size / labels)).backward()
    return ctc_loss.double() * own_labels


def _update(state: State, loss: Tensor, norm: Tensor, statistics: list[tuple[Tensor, Tensor]]) -> None:
    """Update the weights, or restore the `statistics` (now, before the step) if loss or gradient norm is not finite."""
    if state.decides_on_device:
        # The fused AdamW kernel skips its update if this is 1.
        skipped = ~(torch.isfinite(loss) & torch.isfinite(norm))
        setattr(state.optimizer, "found_inf", skipped.float())  # noqa: B010 - optimizers do not declare it
        state.optimizer.step()
        for buffer, before in statistics:
            buffer.copy_(torch.where(skipped, before, buffer))
    elif math.isfinite(loss) and math.isfinite(norm):
        state.scaler.step(state.optimizer)
    else:
        for buffer, before in statistics:
            buffer.copy_(before)
    # Halves the scale if gradients overflowed in fp16.
    state.scaler.update()
