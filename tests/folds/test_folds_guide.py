"""Guided CTC: the guide's spikes, their term of the loss, and steps of training with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from folds.data.augmentation import SpecAugment, augment
from folds.data.batches import Batch, collate
from folds.data.cache import load_dataset
from folds.store.run_folder import RunFolder
from folds.training.guide import Guide, guided_posterior
from folds.training.objective import ctc, objective
from folds.training.options import TrainingRecipe
from folds.training.schedule import Budget
from folds.training.shares import SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import State
from folds.training.step import train_step
from folds.training.task import TrainingTask
from models import CTCModel, GroupFacts, GroupLayer, create_model

SMALL: dict[str, Any] = {"hidden": 8, "channels": (8, 8), "strides": (2, 1), "layers": 1}


def a_model(seed: int = 0, **options: Any) -> CTCModel:
    torch.manual_seed(seed)
    return create_model("lstm_small", **{"features": 5, "classes": 6, **SMALL, "dropout": 0.3, **options})


def a_guide(**options: Any) -> Guide:
    """A guide with random weights, large so that its classes change from frame to frame."""
    network = a_model(1, **options).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.mul_(5)
    return Guide(network, {})


def a_batch(views: int = 1, **augmentation: Any) -> Batch:
    """Utterances of 40, 33 and 21 frames with an unmasked copy, at the speeds of the batch."""
    torch.manual_seed(0)
    lengths, labels = torch.tensor([40, 33, 21]), torch.tensor([3, 2, 1])
    features = torch.randn(3, 40, 5) * (torch.arange(40) < lengths[:, None])[:, :, None]
    batch = Batch(features, lengths, torch.tensor([1, 2, 2, 3, 1, 4]), labels, (0, 1, 2))
    options = SpecAugment(**{"time_mask": 8, "time_every": 10, "feature_mask": 2, **augmentation})
    return augment(batch, options, 2, torch.Generator().manual_seed(0), views=views, keep_unmasked=True)


def masked_posteriors(log_probs: torch.Tensor, guide: torch.Tensor, lengths: torch.Tensor) -> float:
    """The paper's sum, literally: over frames and classes, posterior times mask."""
    total = 0.0
    for row in range(len(log_probs)):
        for t in range(int(lengths[row])):
            best = int(guide[row, t].argmax())
            for c in range(log_probs.shape[2]):
                mask = 1.0 if c == best and best != 0 else 0.0
                total += mask * float(log_probs[row, t, c].exp())
    return total


def test_the_sum_of_posteriors_is_that_under_the_papers_mask():
    batch, guide, model = a_batch(), a_guide(), a_model().eval()
    with torch.no_grad():
        log_probs, lengths = model(batch.features, batch.lengths)
        guiding, _ = guide.network(batch.unmasked, batch.lengths)
    spikes = guide.spikes(batch)
    assert (spikes != 0).any() and (spikes[0] == 0).any()
    assert float(guided_posterior(log_probs, spikes)) == pytest.approx(masked_posteriors(log_probs, guiding, lengths))


def test_the_sum_of_posteriors_of_two_frames_by_hand():
    """The guide has class 2, then the blank, then class 1; only .5 and .3 are summed."""
    log_probs = torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]]]).log().requires_grad_()
    value = guided_posterior(log_probs, torch.tensor([[2, 0, 1]]))
    assert float(value.detach()) == pytest.approx(0.8)
    value.backward()
    assert log_probs.grad is not None  # the derivative of a posterior by its logarithm is the posterior
    expected = torch.tensor([[[0.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.3, 0.0]]])
    torch.testing.assert_close(log_probs.grad, expected)


@pytest.mark.parametrize("intermediate", [0.0, 0.3])
def test_posteriors_at_spikes_are_subtracted_per_label(intermediate):
    batch, model = a_batch(), a_model(dropout=0.0)
    spikes = a_guide().spikes(batch)
    log_probs, lengths = model(batch.features, batch.lengths)
    plain, _ = objective(model, batch, intermediate=intermediate)
    total, own = objective(model, batch, intermediate=intermediate, guide_weight=0.5, spikes=spikes)
    bonus = 0.5 * float(guided_posterior(log_probs, spikes).detach()) / 6
    assert float(total.detach()) == pytest.approx(float(plain.detach()) - bonus, rel=1e-5) and bonus > 0
    assert float(own) == pytest.approx(float(ctc(log_probs, lengths, batch).detach()), rel=1e-5)


def test_the_guide_reads_the_batch_at_its_speed_and_without_masks():
    plain, batch = a_batch(time_mask=0, feature_mask=0, speed=0.0), a_batch(speed=0.3)
    assert batch.lengths.tolist() != plain.lengths.tolist()
    guide = a_guide()
    for row, length in enumerate(batch.lengths.tolist()):
        only = a_batch(time_mask=0, feature_mask=0, speed=0.3).features[row : row + 1, :length]
        with torch.no_grad():
            expected, ends = guide.network(only, torch.tensor([length]))
        spikes = guide.spikes(batch)[row]
        assert spikes[: int(ends)].tolist() == expected[0].argmax(dim=1).tolist()
        assert spikes[int(ends) :].count_nonzero() == 0


def test_views_have_the_same_spikes():
    """They are computed once."""
    calls, guide, batch = [], a_guide(), a_batch(views=2, speed=0.2)
    guide.network.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    spikes = guide.spikes(batch)
    assert calls == [3] and len(spikes) == 6 and torch.equal(spikes[:3], spikes[3:])
    assert torch.equal(spikes[:3], a_guide().spikes(a_batch(speed=0.2)))


def test_a_guide_with_a_group_layer_applies_each_groups_layer():
    guide, groups = a_guide(), ("a", "b", "a")
    guide.network.group_layer = GroupLayer(5, GroupFacts("speaker", ("a", "b"))).requires_grad_(False)
    guide.network.group_layer.weight[0] = -2.0 * torch.eye(5)
    batch = replace(a_batch(views=2), groups=groups * 2)
    expected = guide.network(batch.unmasked, batch.lengths[:3], groups)[0].argmax(dim=2)
    mean = guide.network(batch.unmasked, batch.lengths[:3])[0].argmax(dim=2)
    spikes = guide.spikes(batch)
    assert torch.equal(spikes[0], expected[0]) and torch.equal(spikes[3], expected[0])
    assert not torch.equal(expected[0], mean[0])


def test_the_unmasked_features_are_those_of_both_views_before_masks(tiny):
    """And keeping them changes no other value of the batch."""
    plain = collate(load_dataset(tiny).train, [0, 5, 9])
    options = SpecAugment(time_mask=9, time_every=9, feature_mask=2)
    without, kept = (
        augment(plain, options, 2, torch.Generator().manual_seed(3), views=2, keep_unmasked=keep)
        for keep in (False, True)
    )
    assert without.unmasked is None and kept.unmasked is not None
    assert torch.equal(without.features, kept.features) and torch.equal(without.lengths, kept.lengths)
    for view in (kept.features[:3], kept.features[3:]):
        visible = view != 0
        assert torch.equal(view[visible], kept.unmasked[visible]) and visible.sum() < kept.unmasked.count_nonzero()


def test_a_guide_has_no_gradients_and_draws_no_random_numbers():
    batch, guide = a_batch(), a_guide()
    before = torch.get_rng_state()
    spikes = guide.spikes(batch)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(spikes, guide.spikes(batch))
    total, _ = objective(a_model(), batch, intermediate=0.0, guide_weight=1.0, spikes=spikes)
    total.backward()
    assert all(parameter.grad is None for parameter in guide.network.parameters())


def test_a_batch_takes_its_unmasked_features_to_the_device():
    batch = a_batch().to(torch.device("meta"))
    assert batch.unmasked is not None and batch.unmasked.device.type == "meta"


def test_spikes_and_their_loss_read_nothing_from_the_device(monkeypatch):
    """On the meta device nothing can be read. CTC has no meta kernel."""
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", lambda log_probs, *more, **options: log_probs.sum())
    meta = torch.device("meta")
    batch, guide = a_batch(views=2).to(meta), a_guide()
    guide.network.to(meta)
    spikes = guide.spikes(batch)
    total, _ = objective(a_model().to(meta), batch, intermediate=0.0, consistency=0.2, guide_weight=1.0, spikes=spikes)
    total.backward()
    assert spikes.shape == (6, -(-int(batch.lengths.max()) // 2)) and spikes.device == total.device == meta


def a_task(tiny: Path, folder: Path, guide: Guide | None, **recipe: Any) -> TrainingTask:
    dataset = load_dataset(tiny)
    return TrainingTask(
        dataset=dataset,
        fitted=np.arange(len(dataset.train)),
        held_out=np.zeros(0, np.int64),
        recipe=TrainingRecipe(batch_frames=400, augment=SpecAugment(time_mask=4, feature_mask=1), **recipe),
        seed=3,
        device=torch.device("cpu"),
        folder=RunFolder(folder),
        guide=guide,
    )


def one_step(task: TrainingTask) -> torch.Tensor:
    """The parameters after one step of training."""
    sizes: dict[str, Any] = {"features": task.dataset.features, "classes": task.dataset.alphabet.classes}
    state = State(a_model(**sizes).train(), task.recipe, task.device, task.seed, task.group)
    # At the scale it begins with, fp16 skips some steps.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=64, enabled=task.precision == "fp16")
    share = epoch_shares(task, state.counters)[0]
    parts = [(share, SharePreparation(task, state.model.stride)(share))]
    train_step(state, task, parts, SignalCatcher(), Budget(task.recipe, 1))
    state.read_metrics()
    assert "skipped" not in state.counters.sums
    return torch.nn.utils.parameters_to_vector(state.model.parameters()).detach()


@pytest.mark.parametrize("recipe", [{"precision": "bf16"}, {"precision": "fp16"}, {"consistency": 0.2}])
def test_a_guided_step_trains_in_every_precision(recipe, tiny, tmp_path):
    sizes = {"features": 5, "classes": load_dataset(tiny).alphabet.classes}
    guide = a_guide(**sizes)
    before = torch.nn.utils.parameters_to_vector(a_model(**sizes).parameters())
    plain = one_step(a_task(tiny, tmp_path, None, **recipe))
    guided = one_step(a_task(tiny, tmp_path, guide, **recipe))
    assert not torch.equal(plain, before) and not torch.equal(guided, plain) and guided.isfinite().all()
    assert torch.equal(one_step(a_task(tiny, tmp_path, guide, guide_weight=0.0, **recipe)), plain)
