"""The learning-rate range test: the loss while the learning rate grows with every step, until training diverges.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186). The learning rate with the lowest
loss is too high to train with; a tenth of it is a common choice. The loss of one batch is noisy, so lines are fitted to
windows of steps (Savitzky & Golay 1964).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import savgol_filter

from folds.store.run_folder import RunFolder
from folds.training.device import pick_device
from folds.training.distributed import ProcessGroup
from folds.training.loop import start_from_prior
from folds.training.preparation import (
    add_group_layer,
    check_group_layer,
    resolve_options,
    split_fold,
    training_data,
)
from folds.training.schedule import Budget
from folds.training.shares import SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import State
from folds.training.step import train_step
from folds.training.task import TrainingTask
from folds.tuning.report import write_page
from folds.tuning.stage_runs import Tuning
from folds.tuning.stages import JUDGED_FOLDS
from models import CTCModel, create_model
from registry import InputError
from registry.console import track

LOWEST, HIGHEST, STEPS = 1e-5, 1.0, 150
WINDOW = 31
"""Maximum number of steps that a line is fitted to."""
DIVERGED, LAST = 1.5, 10
"""The test ends once the mean loss of the last `LAST` steps is `DIVERGED` times its lowest value."""


@dataclass(frozen=True)
class Curve:
    """Learning rates, growing by a constant factor, and the losses in nats per label, both `(N,)`."""

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        """The losses on the lines fitted around each step, `(N,)`."""
        return self._fitted(0)

    @property
    def steepest(self) -> float:
        """The learning rate at which the loss falls fastest, with respect to its logarithm."""
        return float(self.rates[np.argmin(self._fitted(1))])

    @property
    def lowest(self) -> float:
        """The learning rate with the lowest loss."""
        return float(self.rates[np.argmin(self.smooth)])

    def _fitted(self, derivative: int) -> np.ndarray:
        window = min(WINDOW, len(self.losses) - (len(self.losses) % 2 == 0))
        return savgol_filter(self.losses, window, polyorder=1, deriv=derivative)


def find_lr(tuning: Tuning) -> None:
    """Run the test with the preset and `--fix`; print the result, and write the curve."""
    import plotly.graph_objects as plotly

    curve = measure_curve(tuning)
    figure = plotly.Figure(plotly.Scatter(x=curve.rates, y=curve.losses, mode="markers", name="steps"))
    figure.add_scatter(x=curve.rates, y=curve.smooth, mode="lines", name="fitted lines")
    figure.update_xaxes(type="log", title="learning rate").update_yaxes(title="loss (nats per label)")
    around = f"{curve.lowest / 100:.2g}:{curve.lowest / 3:.2g}"
    found = (
        f"the loss falls fastest at a learning rate of {curve.steepest:.2g} and is lowest at {curve.lowest:.2g} (a "
        f"tenth of that is a common choice); to search around it, pass --space lr={around}"
    )
    write_page(tuning.paths.range_test, f"Learning-rate range test: {tuning.options.model}", [("Loss", found, figure)])
    print(f"{found}\nwrote {tuning.paths.range_test}")


def measure_curve(tuning: Tuning) -> Curve:
    """The losses of one run whose learning rate grows exponentially. Raises InputError if none is finite."""
    model, task = _prepare(tuning)
    recipe = task.recipe
    state = State(model, recipe, task.device, task.seed, task.group)
    growth = math.log(HIGHEST / LOWEST) / (STEPS - 1)
    rates: list[float] = []
    losses: list[float] = []
    budget = Budget(recipe, STEPS)
    prepare = SharePreparation(task, model.stride)
    model.train()
    with SignalCatcher() as signals:
        for step in track(range(STEPS), "range test"):
            if state.counters.position == 0:
                shares = epoch_shares(task, state.counters)
            chosen = shares[state.counters.position :][: recipe.accumulate]
            rate = LOWEST * math.exp(growth * step)
            for parameters in state.optimizer.param_groups:
                parameters["lr"] = rate
            stop, _ = train_step(state, task, [(share, prepare(share)) for share in chosen], signals, budget)
            state.read_metrics()
            state.counters.step += 1
            state.counters.position += len(chosen)
            if state.counters.position >= len(shares):
                state.counters.epoch += 1
                state.begin_epoch()
            loss = state.metrics.loss
            if stop:
                raise KeyboardInterrupt
            if loss is None or not math.isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            means = np.convolve(losses, np.full(LAST, 1 / LAST), mode="valid")
            if step >= LAST and means[-1] > DIVERGED * means.min():
                break
    if len(rates) < 3:
        raise InputError(f"the loss is not finite at a learning rate of {LOWEST}: try --fix precision=fp32")
    return Curve(np.array(rates), np.array(losses))


def _prepare(tuning: Tuning) -> tuple[CTCModel, TrainingTask]:
    """The network on its device, and what it is trained on: all but the first fold."""
    group, dataset = ProcessGroup(), tuning.dataset
    given = tuning.space.options({})
    own = {name: getattr(tuning.options, name) for name in ("folds", "seed", "skip_bad", "device")}
    options = dataclasses.replace(given.options, threads=1, **own)
    check_group_layer(options, dataset)
    device = pick_device(options.device, group)
    torch.manual_seed(options.seed)
    model = create_model(given.name, given.config_for(dataset))
    model.use_intermediate(options.recipe.intermediate > 0)
    options, recipe = resolve_options(options, device, group, model, halved=False)
    dataset = training_data(options, dataset, teacher=None)
    held_out, fitted = split_fold(options, dataset, JUDGED_FOLDS[0], model)
    add_group_layer(model, options, dataset, fitted)
    folder = RunFolder(tuning.paths.folder)
    task = TrainingTask(dataset, fitted, held_out, recipe, options.seed, device, folder, group)
    if recipe.prior:
        start_from_prior(model, task)
    return model.to(device), task
