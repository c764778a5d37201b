"""The state of a run: its random numbers, the loss scale, counters, and what each process does of a batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from test_folds_step import a_state, a_task, first_steps

from folds.data.cache import load_dataset
from folds.training.distributed import ProcessGroup
from folds.training.loop import start_from_prior
from folds.training.objective import log_prior, objective
from folds.training.options import RecipeOptions, TrainOptions
from folds.training.preparation import split_fold
from folds.training.schedule import Budget
from folds.training.shares import SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import step_seeds
from folds.training.step import train_step
from folds.training.step_metrics import NO_COST, Counters, StepMetrics
from models import create_model


def test_seeds_differ_by_run_process_and_step():
    seeds = [step_seeds(*place) for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))]
    assert len({number for pair in seeds for number in pair}) == 10 and step_seeds(1, 2, 3) == step_seeds(1, 2, 3)


def test_each_process_and_each_seed_has_its_own_dropout_and_masks(tiny, tmp_path):
    drawn, masked = [], []
    for seed, rank in ((3, 0), (4, 0), (3, 1)):
        task = replace(a_task(tiny, tmp_path), seed=seed, group=ProcessGroup(rank))
        own = a_state(task)
        own.begin_step()
        drawn.append(torch.rand(4))
        share = epoch_shares(a_task(tiny, tmp_path), own.counters)[0]
        masked.append(SharePreparation(task, own.model.stride)(share).features)
    for one, other in (*combinations(drawn, 2), *combinations(masked, 2)):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_the_shares_of_all_processes_are_the_epoch(processes, accumulate, tiny, tmp_path):
    """A process without an utterance of its own repeats the first, which has no weight there."""
    task = a_task(tiny, tmp_path, accumulate=accumulate)
    of_process = [
        epoch_shares(replace(task, group=ProcessGroup(rank, processes)), Counters()) for rank in range(processes)
    ]
    lengths, batches = task.dataset.train.tokens.lengths, task.batches(1)
    assert min(map(len, batches)) < 5
    for batch, shares in zip(batches, zip(*of_process, strict=True), strict=True):
        own = [share for share in shares if share.labels]
        rows = np.concatenate([share.indices for share in own])
        assert sorted(rows.tolist()) == sorted(task.fitted[batch].tolist())
        assert all(share.indices.tolist() == [task.fitted[batch[0]]] for share in shares if not share.labels)
        assert {share.batch_labels for share in shares} == {lengths[rows].sum()} == {sum(it.labels for it in own)}
    assert task.steps(1) == of_process[0][-1].step + 1 == -(-len(batches) // accumulate)


def test_a_state_trains_the_objective_of_its_recipe(tiny, tmp_path):
    weights = {"intermediate": 0.3, "consistency": 0.2, "guide_weight": 0.7, "teacher_weight": 0.4}
    task = a_task(tiny, tmp_path, **weights)
    own = a_state(task)
    own.model.eval()
    ((_, batch),) = first_steps(task, own.model, own, 1)[0]
    spikes = torch.ones(len(batch.lengths), int(own.model.output_lengths(batch.lengths).max()), dtype=torch.int64)
    found, expected = own.objective(batch, spikes)[0], objective(own.model, batch, spikes=spikes, **weights)[0]
    assert torch.equal(found, expected) and own.objective.teacher_weight == 0.4
    for name in ("intermediate", "consistency", "guide_weight"):
        other = objective(own.model, batch, spikes=spikes, **{**weights, name: 0.0})[0]
        assert not torch.equal(found, other)


def test_a_step_has_the_mean_loss_of_the_labels_of_its_batches_and_its_gradient(tiny, tmp_path):
    task = a_task(tiny, tmp_path, intermediate=0.3, accumulate=2)
    own = a_state(task)
    (parts,) = first_steps(task, own.model, own, 1)
    labels = [float(batch.target_lengths.sum()) for _, batch in parts]
    own.begin_step()
    totals, losses = zip(*(own.objective(batch) for _, batch in parts), strict=True)
    mean = sum(total * count for total, count in zip(totals, labels, strict=True)) / sum(labels)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(mean, list(own.model.parameters()))])
    train_step(own, task, parts, SignalCatcher(), Budget(task.recipe, 1))
    own.read_metrics()
    assert own.counters.sums["labels"] == sum(labels)
    expected = sum(float(loss) * count for loss, count in zip(losses, labels, strict=True))
    assert own.counters.sums["loss"] == pytest.approx(expected, rel=1e-5)
    norm = float(torch.linalg.vector_norm(gradient))
    assert own.counters.sums["grad_norm"] / sum(labels) == pytest.approx(norm, rel=1e-4)


def test_biases_start_from_the_fitted_labels_and_output_frames(tiny, tmp_path):
    task = a_task(tiny, tmp_path)
    model, split = a_state(task).model, task.dataset.train
    start_from_prior(model, task)
    counts, blanks = np.ones(task.dataset.alphabet.classes), 0
    for row in task.fitted.tolist():
        np.add.at(counts, split.labels(row), 1)
        blanks += -(-split.lengths[row] // model.stride) - len(split.labels(row))
    counts[0] = blanks
    torch.testing.assert_close(model.output.bias.detach().exp(), torch.tensor(counts / counts.sum()).float())


def test_labels_that_leave_no_frame_to_the_blank_keep_the_prior_finite():
    prior = log_prior(torch.tensor([1, 1, 2]), classes=3, frames=3).exp()
    torch.testing.assert_close(prior, torch.tensor([1.0, 3.0, 2.0]) / 6)


def test_a_restored_state_has_the_loss_scale_the_averages_and_the_counters(tiny, tmp_path):
    task = a_task(tiny, tmp_path, precision="fp16", average=0.3)
    before, after = a_state(task), a_state(task)
    for value in before.average.values.values():
        value.add_(1.0)
    before.scaler.load_state_dict(before.scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 9})
    sums = {"loss": 0.1 + 0.2, "grad_norm": 1 / 3, "labels": 7.0}
    before.counters = Counters(3, 4, 17, 1 / 7, 2, 5.25, sums, (1.5, 0.1, 800))
    before.save(task.folder)
    assert after.restore(task.folder) and after.counters == before.counters
    assert after.scaler.state_dict() == before.scaler.state_dict() and after.scaler.get_scale() == 512
    assert all(torch.equal(value, before.average.values[name]) for name, value in after.average.values.items())


def test_an_epoch_begins_with_nothing(tiny, tmp_path):
    own = a_state(a_task(tiny, tmp_path))
    own.counters = Counters(3, 4, 17, 9.0, 2, 5.25, {"loss": 1.0}, (1.5, 0.1, 800))
    own.begin_epoch()
    assert own.counters == Counters(3, 0, 17, 9.0, 2, 5.25, {}, NO_COST)


def test_metrics_are_read_after_the_first_step_and_then_every_so_many():
    counters, waiting, read_after = Counters(), StepMetrics(4), []
    for step in range(6, 14):  # a resumed run
        waiting.add(torch.tensor(6.0 * step), torch.tensor(0.5), 3, np.array([0]))
        if waiting.due(step):
            read_after.append(step)
            waiting.read(counters)
            assert waiting.loss == 2.0 * step
    assert read_after == [6, 8, 12]
    assert counters.sums == {"loss": 6.0 * sum(range(6, 13)), "grad_norm": 0.5 * 3 * 7, "labels": 21}


def test_a_limit_and_a_fraction_of_the_speakers_bound_only_what_is_fitted(tiny):
    dataset = load_dataset(tiny)
    model = create_model("lstm_small", features=dataset.features, classes=dataset.alphabet.classes)

    def parts(**recipe) -> tuple[list[int], list[int]]:
        options = TrainOptions(folds=2, recipe=RecipeOptions(**recipe))
        held_out, fitted = split_fold(options, dataset, 0, model)
        return held_out.tolist(), fitted.tolist()

    held_out, everything = parts()
    assert sorted(held_out + everything) == list(range(len(dataset.train)))
    (_, few), (_, more) = parts(speakers=0.3), parts(speakers=0.6)
    assert {*few} < {*more} < {*everything}
    assert parts(limit=5) == (held_out, everything[:5]) and parts(limit=5, speakers=0.3) == (held_out, few[:5])
