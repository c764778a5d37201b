"""Budgets of steps and of time, checkpoints within an epoch, and the metrics that an epoch's steps add up to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from training_runs import metric_rows, metrics, run, run_folder

from folds.data.batches import plan
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.training import loop, schedule
from folds.training.options import TrainingRecipe
from folds.training.schedule import Budget
from folds.training.state import State
from folds.training.step import train_step
from folds.training.step_metrics import StepMetrics
from folds.training.threads import CPUThreads
from folds.training.weight_average import WeightAverage


@pytest.fixture
def slow(monkeypatch):
    """Each step takes five minutes by the clock of budgets and checkpoints; all else takes no time.

    `rates` gets the learning rate of each step; a signal arrives in those steps whose numbers are in `signal_at`.
    """
    now, rates, signal_at = [0.0], [], []
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(schedule, "time", clock)

    def slow_step(state, task, parts, signals, budget):
        now[0] += 300
        rates.append(state.optimizer.param_groups[0]["lr"])
        if len(rates) in signal_at:
            signals.caught = 15
        return train_step(state, task, parts, signals, budget)

    monkeypatch.setattr(loop, "train_step", slow_step)
    return SimpleNamespace(rates=rates, signal_at=signal_at)


def test_a_budget_of_minutes_is_by_its_clock(monkeypatch):
    wall, cpu = iter([100.0, 130.0, 131.0]), iter([7.0, 9.5, 9.75])
    clock = SimpleNamespace(monotonic=lambda: next(wall), process_time=lambda: next(cpu))
    monkeypatch.setattr(schedule, "time", clock)
    by_wall, by_cpu = (Budget(TrainingRecipe(minutes=2, clock=name), 0) for name in ("wall", "cpu"))
    assert [by_wall.tick(), by_wall.tick()] == [30, 1] and [by_cpu.tick(), by_cpu.tick()] == [2.5, 0.25]
    assert by_wall.progress(7, 30.0) == 0.25 and by_wall.total_steps(7, 30.0) == 28
    assert by_wall.total_steps(0, 0.0) == 0


def test_a_budget_of_epochs_is_in_steps():
    budget = Budget(TrainingRecipe(), 40)
    assert budget.progress(10, 99.0) == 0.25 and budget.total_steps(10, 99.0) == 40


def test_a_run_by_time_that_is_stopped_continues_with_the_time_that_is_left(slow, tiny, tmp_path, monkeypatch):
    """It ends within an epoch. Steps are of two batches, and the stop is in the second of four in the second epoch."""
    options = ["--minutes", "47", "--batch-frames", "200", "--accumulate", "2", "--average", "0.3"]
    run(monkeypatch, tiny, tmp_path / "whole", *options)
    whole = run_folder(tmp_path / "whole")
    assert [row["step"] for row in metric_rows(whole)] == [4, 8, 10] and len(set(slow.rates)) == 10
    slow.signal_at.append(10 + 6)
    assert run(monkeypatch, tiny, tmp_path, *options) == 143
    assert run(monkeypatch, tiny, tmp_path, *options, "--resume") == 0
    assert metrics(run_folder(tmp_path)) == metrics(whole) and slow.rates[10:] == slow.rates[:10]


def test_a_checkpoint_is_written_whenever_ten_minutes_have_passed(slow, tiny, tmp_path, monkeypatch):
    """Since the last one, be it of an epoch's end; an epoch has four steps."""
    saved, save = [], State.save

    def noting(state, folder):
        saved.append((state.counters.step, state.counters.position))
        save(state, folder)

    monkeypatch.setattr(State, "save", noting)
    run(monkeypatch, tiny, tmp_path / "often", "--epochs", "2")
    assert saved == [(3, 3), (4, 0), (7, 3), (8, 0)]
    saved.clear()
    run(monkeypatch, tiny, tmp_path / "seldom", "--epochs", "2", "--save-every", "16")
    assert saved == [(4, 4), (8, 4), (8, 0)]


def test_an_epochs_metrics_are_means_over_the_labels_of_its_steps(tiny, tmp_path, monkeypatch):
    """Epochs of two, three and four steps. The averaged weights and the threads are told of every step."""
    steps, averaged, frames = [], [], []
    add, update = StepMetrics.add, WeightAverage.update

    def noting(self, loss, norm, labels, utterances):
        steps.append((float(loss), float(norm), labels))
        add(self, loss, norm, labels, utterances)

    def noting_average(self, step, total_steps):
        averaged.append((step, total_steps))
        update(self, step, total_steps)

    monkeypatch.setattr(StepMetrics, "add", noting)
    monkeypatch.setattr(WeightAverage, "update", noting_average)
    monkeypatch.setattr(CPUThreads, "adapt", lambda self, count: frames.append(count))
    monkeypatch.setattr("folds.training.task.plan", lambda *given, **how: plan(*given, **how)[: how["epoch"] + 1])
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--average", "0.3")
    rows = metric_rows(run_folder(tmp_path))
    assert [row["step"] for row in rows] == [2, 5, 9] and averaged == [(step, 9) for step in range(1, 10)]
    for row, own in zip(rows, (steps[:2], steps[2:5], steps[5:]), strict=True):
        labels = sum(count for *_, count in own)
        assert row["loss"] == pytest.approx(sum(loss for loss, *_ in own) / labels, abs=1e-6)
        assert row["grad_norm"] == pytest.approx(sum(norm * count for _, norm, count in own) / labels, abs=1e-6)
    split = load_dataset(tiny).train
    fitted = speaker_folds(split, 2) != 0
    assert sum(frames[5:]) == split.lengths[fitted].sum()
    assert sum(count for *_, count in steps[5:]) == split.tokens.lengths[fitted].sum()
