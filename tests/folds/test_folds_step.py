"""A step of training: what it reads from the device, what it skips, and how its batches are prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import metric_rows, metrics, run, run_folder

from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import Batch, collate
from folds.data.cache import load_dataset
from folds.store.run_folder import RunFolder
from folds.training import loop, state
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe
from folds.training.schedule import Budget, learning_rate
from folds.training.shares import Share, SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import State, step_seeds
from folds.training.step import train_step
from folds.training.step_metrics import MAX_NONFINITE_STEPS, Counters, StepMetrics
from folds.training.task import TrainingTask
from folds.training.weight_average import WeightAverage
from models import CTCModel, create_model
from models.layers.frames import FrameNorm
from registry import InputError
from registry.bounds import Bounds


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Train on the CPU as on CUDA, reading metrics every 7 steps."""
    monkeypatch.setattr(state, "STEPS_PER_READ", {"cpu": 7})


def a_task(tiny: Path, folder: Path, **recipe: Any) -> TrainingTask:
    dataset = load_dataset(tiny)
    rows = np.arange(len(dataset.train))
    return TrainingTask(
        dataset=dataset,
        fitted=rows[2:],
        held_out=rows[:2],
        recipe=TrainingRecipe(batch_frames=200, augment=SpecAugment(time_mask=4, feature_mask=1), **recipe),
        seed=3,
        device=torch.device("cpu"),
        folder=RunFolder(folder),
    )


def a_state(task: TrainingTask) -> State:
    torch.manual_seed(0)
    options: dict[str, Any] = {"hidden": 8, "channels": (8, 8), "strides": (2, 1), "layers": 1}
    features, classes = task.dataset.features, task.dataset.alphabet.classes
    model = create_model("lstm_small", features=features, classes=classes, **options)
    model.use_intermediate(task.recipe.intermediate > 0)
    return State(model.train(), task.recipe, task.device, task.seed, task.group)


def first_steps(task: TrainingTask, model: CTCModel, own: State, count: int) -> list[list[tuple[Share, Batch]]]:
    shares = epoch_shares(task, own.counters)
    prepare = SharePreparation(task, model.stride)
    every = task.recipe.accumulate
    parts = [(share, prepare(share)) for share in shares[: count * every]]
    return [parts[start : start + every] for start in range(0, len(parts), every)]


class DeviceReads(TorchDispatchMode):
    """Counts numbers and truth values read from tensors. Integers are lengths, which are always on the CPU."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].is_floating_point() or args[0].dtype == torch.bool
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16 has the loss scaler
def test_a_step_as_on_cuda_reads_nothing_from_the_device(precision, as_on_cuda, tiny, tmp_path):
    task = a_task(tiny, tmp_path, precision=precision, consistency=0.2, intermediate=0.3, accumulate=2)
    own = a_state(task)
    steps = first_steps(task, own.model, own, 3)
    assert len(steps) == 3 and all(len(parts) == 2 for parts in steps)
    budget = Budget(task.recipe, 3)
    with DeviceReads() as reads:
        for parts in steps:
            train_step(own, task, parts, SignalCatcher(), budget)
            own.counters.step += 1
    assert reads.count == 0 and own.counters.sums == {}
    own.read_metrics()
    assert own.counters.sums["labels"] == sum(share.batch_labels for parts in steps for share, _ in parts)


def test_a_step_on_the_cpu_decides_on_the_host(tiny, tmp_path):
    """So the test above would notice reads."""
    task = a_task(tiny, tmp_path)
    own = a_state(task)
    (parts,) = first_steps(task, own.model, own, 1)
    with DeviceReads() as reads:
        train_step(own, task, parts, SignalCatcher(), Budget(task.recipe, 1))
    assert reads.count >= 2


def test_processes_exchange_gradients_and_totals_once_per_step(tiny, tmp_path, monkeypatch):
    """Though a step has two batches. One process, whose group has two for all that the step knows."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        task = replace(a_task(tiny, tmp_path, accumulate=2), group=ProcessGroup(size=2))
        own = a_state(task)
        gradients, totals = [], []

        def exchanged(_, bucket):
            gradients.append(bucket.buffer().numel())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        own.objective.register_comm_hook(None, exchanged)
        monkeypatch.setattr(dist, "all_reduce", totals.append)
        steps = first_steps(task, own.model, own, 3)
        for parts in steps:
            assert len(parts) == 2
            train_step(own, task, parts, SignalCatcher(), Budget(task.recipe, 3))
        trained = sum(parameter.numel() for parameter in own.model.parameters() if parameter.requires_grad)
        norms = sum(isinstance(layer, FrameNorm) for layer in own.model.modules())
        assert gradients == [trained] * 3 and norms == 2
        assert len(totals) == 3 * (1 + 2 * 2 * norms)  # two batches, and forward and backward of each
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps_per_read", [1, 7])
def test_a_non_finite_step_changes_nothing_and_is_counted(steps_per_read, masked, tiny, tmp_path, monkeypatch):
    """Neither parameters nor the running statistics of normalisation, as computed on a CPU and on a GPU."""
    monkeypatch.setattr(state, "STEPS_PER_READ", {"cpu": steps_per_read})
    monkeypatch.setattr(FrameNorm, "gathers", staticmethod(lambda x: not masked))
    task = a_task(tiny, tmp_path)
    own = a_state(task)
    budget, weights = Budget(task.recipe, 3), []
    for number, parts in enumerate(first_steps(task, own.model, own, 3)):
        if number == 1:
            parts[0][1].features[0, 3] = torch.inf
        train_step(own, task, parts, SignalCatcher(), budget)
        own.counters.step += 1
        weights.append([value.clone() for value in own.model.state_dict().values()])
    own.read_metrics()
    assert own.counters.sums["skipped"] == 1 and own.counters.nonfinite_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert all(p.isfinite().all() for p in weights[2])
    assert {float(slots["step"]) for slots in own.optimizer.state.values()} == {2.0}


@pytest.mark.parametrize("infinite", ["loss", "gradient"])
@pytest.mark.parametrize("steps_per_read", [1, 7])
def test_an_infinite_loss_or_gradient_alone_is_reason_enough(steps_per_read, infinite, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "STEPS_PER_READ", {"cpu": steps_per_read})
    task = a_task(tiny, tmp_path)
    own = a_state(task)
    (parts,) = first_steps(task, own.model, own, 1)
    if infinite == "gradient":
        next(own.model.parameters()).register_hook(lambda gradient: gradient + torch.inf)
    else:
        forward = own.objective.forward
        monkeypatch.setattr(own.objective, "forward", lambda *given: (forward(*given)[0], torch.tensor(torch.inf)))
    before = [value.clone() for value in own.model.state_dict().values()]
    train_step(own, task, parts, SignalCatcher(), Budget(task.recipe, 1))
    own.read_metrics()
    assert own.counters.sums == {"skipped": 1}
    assert all(torch.equal(a, b) for a, b in zip(before, own.model.state_dict().values(), strict=True))


def test_training_as_on_cuda_has_the_metrics_of_the_cpu(undisturbed, as_on_cuda, tiny, tmp_path, monkeypatch):
    """Up to the rounding of the fused optimizer."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "6")
    rows, expected = metric_rows(run_folder(tmp_path)), metric_rows(undisturbed)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("loss", "grad_norm", "skipped"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=1e-3)


def test_a_stop_between_reads_loses_no_metrics(as_on_cuda, tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path / "whole", "--epochs", "4")
    steps = []

    def stopping(own, task, parts, signals, budget):
        steps.append(1)
        if len(steps) == 10:  # in the third epoch of four steps; the read before was after step 8
            signals.caught = 15
        return train_step(own, task, parts, signals, budget)

    monkeypatch.setattr(loop, "train_step", stopping)
    assert run(monkeypatch, tiny, tmp_path, "--epochs", "4") == 143
    run(monkeypatch, tiny, tmp_path, "--epochs", "4", "--resume")
    assert len(steps) == 16 and metrics(run_folder(tmp_path)) == metrics(run_folder(tmp_path / "whole"))


def test_divergence_between_reads_stops_the_run(as_on_cuda, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Bounds, "complaint", lambda *given: "")  # rates within bounds do not diverge at once
    with pytest.raises(InputError, match=r"in 20 steps in a row, the last of them with \d-1-"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "60", "--lr", "1e30", "--clip", "1e30")
    assert "NaN" not in metrics(run_folder(tmp_path))


def test_a_diverged_run_that_is_resumed_ends_too():
    """A signal between two reads may have saved more steps in a row than are allowed."""
    counters, waiting = Counters(nonfinite_steps=MAX_NONFINITE_STEPS + 3), StepMetrics(50)
    waiting.add(torch.tensor(torch.nan), torch.tensor(1.0), 5, np.array([7]))
    waiting.read(counters)
    assert waiting.diverged_at is not None and waiting.diverged_at.tolist() == [7]


def test_an_epoch_without_a_finite_step_has_no_loss(tiny, tmp_path, monkeypatch, capsys):
    real = loop.train_step

    def skipped(own, task, parts, signals, budget):
        for _, batch in parts:
            batch.features[0, 3] = torch.inf
        return real(own, task, parts, signals, budget)

    monkeypatch.setattr(loop, "train_step", skipped)
    run(monkeypatch, tiny, tmp_path, "--epochs", "1")
    (row,) = metric_rows(run_folder(tmp_path))
    assert row["loss"] is None and row["grad_norm"] is None and row["skipped"] == row["step"]
    assert "epoch 1/1: no finite loss, held-out distance" in capsys.readouterr().out


def test_the_batches_of_a_step_draw_from_one_generator(tiny, tmp_path):
    """Seeded by the step; so a resumed run, which begins at a step, prepares the same batches."""
    task = a_task(tiny, tmp_path, consistency=0.2, accumulate=2)
    own = a_state(task)
    steps = first_steps(task, own.model, own, 3)
    for number, parts in enumerate(steps):
        masks = torch.Generator().manual_seed(step_seeds(3, 0, number).masks)
        for share, batch in parts:
            plain = collate(task.dataset.train, share.indices)
            expected = augment(plain, task.recipe.augment, own.model.stride, masks, views=2)
            assert share.step == number and torch.equal(batch.features, expected.features)
            assert share.frames == int(plain.lengths.sum()) and share.labels == int(plain.target_lengths.sum())
    own.counters.step, own.counters.position = 1, 2
    for (share, batch), (other_share, other) in zip(first_steps(task, own.model, own, 1)[0], steps[1], strict=True):
        assert torch.equal(batch.features, other.features) and share.step == other_share.step == 1


def test_every_step_has_the_rate_of_its_progress(tiny, tmp_path, monkeypatch):
    seen: list[tuple[float, set[float]]] = []

    def noting(own, task, parts, signals, budget):
        seen.append((own.counters.step / budget.steps, {group["lr"] for group in own.optimizer.param_groups}))
        return train_step(own, task, parts, signals, budget)

    monkeypatch.setattr(loop, "train_step", noting)
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--lr", "0.01", "--warmup", "0.2")
    recipe = TrainingRecipe(lr=0.01, warmup=0.2)
    assert len(seen) > 8 and seen[0][0] == 0
    assert seen == [(progress, {learning_rate(progress, recipe)}) for progress, _ in seen]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16 has the loss scaler
def test_gradients_are_clipped_and_matrices_decay_alone(precision, tiny, tmp_path):
    task = a_task(tiny, tmp_path, clip=1e-3, precision=precision)
    own = a_state(task)
    # At the scale it begins with, fp16 skips some steps.
    own.scaler = torch.amp.GradScaler("cpu", init_scale=64, enabled=precision == "fp16")
    (parts,) = first_steps(task, own.model, own, 1)
    train_step(own, task, parts, SignalCatcher(), Budget(task.recipe, 1))
    gradients = [p.grad.flatten() for p in own.model.parameters() if p.grad is not None]
    assert float(torch.linalg.vector_norm(torch.cat(gradients))) == pytest.approx(1e-3, rel=1e-3)
    decays = {p.ndim >= 2: group["weight_decay"] for group in own.optimizer.param_groups for p in group["params"]}
    assert decays == {True: task.recipe.weight_decay, False: 0.0}


def test_averaged_weights_are_the_mean_first_and_then_a_moving_one():
    """Of all steps for the first tenth of the training, then with its length as the window. So are buffers."""
    model = torch.nn.Linear(1, 1, bias=False)
    model.register_buffer("statistic", model.weight.detach()[0].clone())
    average, seen, expected = WeightAverage(model, 0.1), [float(model.weight.detach())], 0.0
    for step in range(1, 41):
        for value in model.state_dict().values():
            value.fill_(float(step))
        average.update(step, 100)
        seen.append(float(step))
        expected = float(np.mean(seen)) if step <= 10 else expected + (step - expected) / 11
        with average.applied():
            assert [float(value) for value in model.state_dict().values()] == pytest.approx([expected] * 2, rel=1e-5)
        assert [float(value) for value in model.state_dict().values()] == [step] * 2
