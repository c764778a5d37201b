"""The objective against torch's own pieces and hand counts; the schedule; checkpoints and the store."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from folds.data.batches import Batch, repeated
from folds.store import checkpoint
from folds.store.fold_model import find_fold_models, unfinished_runs
from folds.store.log_probs import LogProbs, read_log_probs, write_log_probs
from folds.store.ragged import Ragged, offsets_of
from folds.store.run_folder import RunFolder
from folds.training.objective import ctc, disagreement, log_prior, objective
from folds.training.options import TrainingRecipe
from folds.training.schedule import learning_rate
from models import create_model
from registry import InputError
from registry.json_files import write_json


def a_batch() -> Batch:
    torch.manual_seed(0)
    lengths, targets = torch.tensor([40, 33]), torch.tensor([1, 2, 2, 3, 1])
    return Batch(torch.randn(2, 40, 5), lengths, targets, torch.tensor([3, 2]), (0, 1))


def test_ctc_is_the_sum_over_alignments_per_label():
    """Two frames, label "1": alignments 1-, -1, 11; with equal thirds each has probability 1/9."""
    log_probs = torch.full((1, 2, 3), 1 / 3).log()
    batch = Batch(torch.zeros(1, 2, 1), torch.tensor([2]), torch.tensor([1]), torch.tensor([1]), (0,))
    assert float(ctc(log_probs, torch.tensor([2]), batch)) == pytest.approx(-math.log(3 / 9))


def test_the_middle_layer_has_its_weight():
    model = create_model("lstm_small", features=5, classes=6, hidden=8, dropout=0.0)
    batch = a_batch()
    final, lengths, middle, middle_lengths, _ = model.training_outputs(batch.features, batch.lengths)
    assert middle is not None and middle_lengths is not None
    one, two = float(ctc(final, lengths, batch).detach()), float(ctc(middle, middle_lengths, batch).detach())
    total, own = objective(model, batch, intermediate=0.3)
    assert float(total.detach()) == pytest.approx(0.7 * one + 0.3 * two, rel=1e-5)
    assert float(own) == pytest.approx(one, rel=1e-5)
    assert float(objective(model, batch, intermediate=0.0)[0].detach()) == pytest.approx(one, rel=1e-5)


def test_views_disagree_by_the_divergence_over_valid_frames():
    torch.manual_seed(0)
    log_probs = torch.randn(4, 5, 3).log_softmax(dim=2).requires_grad_()
    lengths = torch.tensor([5, 2, 5, 2])
    p = log_probs.detach().exp()
    expected = 0.0
    for one, other in ((0, 2), (2, 0), (1, 3), (3, 1)):
        for t in range(int(lengths[one])):
            expected += float((p[other, t] * (p[other, t] / p[one, t]).log()).sum())
    total = disagreement(log_probs, lengths)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert log_probs.grad is not None
    assert log_probs.grad[1, 2:].abs().sum() == 0  # padding has no gradient
    assert float(disagreement(log_probs.detach()[:2].repeat(2, 1, 1), lengths)) == pytest.approx(0, abs=1e-6)


def test_agreement_has_its_weight():
    model = create_model("lstm_small", features=5, classes=6, hidden=8, dropout=0.0)
    batch = a_batch()
    twice = repeated(batch, 2)
    both = replace(twice, features=torch.cat([batch.features, batch.features.flip(2)]))
    final, lengths, *_ = model.training_outputs(both.features, both.lengths)
    without, _ = objective(model, both, intermediate=0.3)
    total, _ = objective(model, both, intermediate=0.3, consistency=0.2)
    extra = 0.2 * float(disagreement(final, lengths).detach()) / int(both.target_lengths.sum())
    assert float(total.detach()) == pytest.approx(float(without.detach()) + extra, rel=1e-5)


def test_the_prior_counts_labels_and_gives_the_rest_to_the_blank():
    prior = log_prior(torch.tensor([1, 1, 2]), classes=4, frames=10).exp()
    expected = torch.tensor([7.0, 3.0, 2.0, 1.0])  # one is added to each class but the blank: none is impossible
    torch.testing.assert_close(prior, expected / expected.sum())


def test_the_schedule_rises_then_falls_to_zero():
    values = [learning_rate(p / 1000, TrainingRecipe(lr=1.0, warmup=0.1)) for p in range(1001)]
    assert max(values) == values[100] == 1.0 and values[0] < 0.02 and values[-1] == pytest.approx(0, abs=1e-9)
    assert values[:101] == sorted(values[:101]) and values[100:] == sorted(values[100:], reverse=True)
    assert values[550] == pytest.approx(0.5)


def trained(steps: int, seed: int = 0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias]}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    step_more(model, optimizer, steps)
    return model, optimizer


def step_more(model, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((1, 3), 1.0 + step)).square().sum().backward()
        optimizer.step()


def test_a_restored_optimizer_continues_as_if_never_stopped(tmp_path):
    model, optimizer = trained(3)
    checkpoint.save(RunFolder(tmp_path), 3, model, optimizer, {"step": 3}, {"more": torch.arange(2)})
    other, other_optimizer = trained(0, seed=7)
    loaded = checkpoint.load(RunFolder(tmp_path), other, other_optimizer)
    assert loaded is not None
    header, more = loaded
    assert header == {"step": 3} and more["more"].tolist() == [0, 1]
    for pair in ((model, optimizer), (other, other_optimizer)):
        step_more(*pair, 4)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    (model, optimizer), run = trained(1), RunFolder(tmp_path)
    for step in (1, 20, 300):
        checkpoint.save(run, step, model, optimizer, {"step": step}, {})
    names = [path.name for path in run.checkpoints]
    assert names == ["step00000020.safetensors", "step00000300.safetensors"]
    newest = run.checkpoints[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    assert checkpoint.load(run, model, optimizer) == ({"step": 20}, {})
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert run.checkpoints[-1] != newest and newest.with_suffix(".damaged").exists()
    assert checkpoint.load(RunFolder(tmp_path / "none"), model, optimizer) is None


@pytest.mark.parametrize("size", [0, 4, 60])
def test_a_checkpoint_cut_short_anywhere_is_damaged(size, tmp_path, capsys):
    (model, optimizer), run = trained(1), RunFolder(tmp_path)
    checkpoint.save(run, 1, model, optimizer, {"step": 1}, {})
    (only,) = run.checkpoints
    only.write_bytes(only.read_bytes()[:size])
    assert checkpoint.load(run, model, optimizer) is None
    assert "is damaged" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_opened_is_kept(tmp_path):
    (model, optimizer), run = trained(1), RunFolder(tmp_path)
    run.checkpoint(7).mkdir(parents=True)  # opening it fails, as on a network drive that is unavailable
    with pytest.raises(OSError):
        checkpoint.load(run, model, optimizer)
    assert run.checkpoints


def some_log_probs(lengths=(3, 0, 2)) -> LogProbs:
    random = np.random.default_rng(0)
    offsets = offsets_of(lengths)
    values = np.log(random.dirichlet(np.ones(4), size=offsets[-1])).astype(np.float16)
    return LogProbs(values, offsets, tuple(f"u{i}" for i in range(len(lengths))), "abc", 0, 4)


def test_the_store_returns_what_was_written(tmp_path):
    log_probs = some_log_probs()
    write_log_probs(tmp_path / "oof.safetensors", log_probs)
    back = read_log_probs(tmp_path / "oof.safetensors")
    assert np.array_equal(back.values, log_probs.values) and back.ids == log_probs.ids
    assert (back.alphabet_hash, back.blank, back.stride, back.lengths.tolist()) == ("abc", 0, 4, [3, 0, 2])
    assert isinstance(back, Ragged) and back[-1].shape == (2, 4)
    assert np.array_equal(back[2], log_probs.values[3:].astype(np.float32))
    chosen = back.select(["u2", "u0"])
    assert chosen.ids == ("u2", "u0") and np.array_equal(chosen[1], back[0]) and chosen.lengths.tolist() == [2, 3]
    packed = LogProbs.pack([back.values[3:], back.values[:3]], ["u2", "u0"], back)
    assert np.array_equal(packed.values, chosen.values) and np.array_equal(packed.offsets, chosen.offsets)
    padded, lengths = back.padded([2, 0])
    assert lengths.tolist() == [2, 3] and np.exp(padded[0, 2]).tolist() == [1, 0, 0, 0]


def test_a_missing_prediction_is_an_error_and_never_zeros():
    with pytest.raises(InputError, match="1 of 2 utterances have no prediction, the first is u9"):
        some_log_probs().select(["u0", "u9"])


def test_a_non_finite_prediction_is_refused(tmp_path):
    log_probs = some_log_probs()
    log_probs.values[4, 1] = np.nan
    with pytest.raises(InputError, match="the model's output for u2 has NaN"):
        write_log_probs(tmp_path / "oof.safetensors", log_probs)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_missing_prediction_file_is_one_line(tmp_path):
    path = tmp_path / "dev.safetensors"
    with pytest.raises(InputError, match="no such file: this run is not finished"):
        read_log_probs(path)
    write_log_probs(path, some_log_probs())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged"):
        read_log_probs(path)


def test_fold_models_are_finished_runs(tmp_path):
    config = {"model": "m", "folds": 2, "seed": 0, "parameters": 5, "tags": ["x"], "stride": 4}
    for fold, seed in ((1, 0), (0, 0), (0, 3)):
        write_json(RunFolder.of(tmp_path, "m", fold, seed).config, {**config, "fold": fold, "seed": seed})
    for split in ("oof", "dev", "test"):
        for fold, seed in ((0, 0), (0, 3)):
            write_log_probs(RunFolder.of(tmp_path, "m", fold, seed).predictions(split), some_log_probs())
    fold_models = find_fold_models(tmp_path)
    assert [(it.name, it.fold, it.tags) for it in fold_models] == [("m", 0, ("x",)), ("m.seed3", 0, ("x",))]
    assert unfinished_runs(tmp_path) == [tmp_path / "m" / "fold1"]
    with pytest.raises(InputError, match="no such runs folder"):
        find_fold_models(tmp_path / "none")


def test_the_other_view_is_held_fixed():
    """The gradient of each view is that of a cross-entropy with the other as its target."""
    torch.manual_seed(0)
    log_probs = torch.randn(4, 5, 3).log_softmax(dim=2).requires_grad_()
    lengths = torch.tensor([5, 2, 5, 2])
    disagreement(log_probs, lengths).backward()
    p = log_probs.detach().exp()
    torch.testing.assert_close(log_probs.grad[0], -p[2])
    torch.testing.assert_close(log_probs.grad[3, :2], -p[1, :2])


def test_the_attention_loss_has_the_weight_that_the_model_gives_it():
    sizes = {"channels": 8, "bottom": 6, "hidden": 8, "layers": 1, "speller": 7, "attention": 5}
    model, batch = create_model("las_small", features=5, classes=6, dropout=0.0, **sizes), a_batch()
    torch.manual_seed(1)
    total, own = objective(model, batch, intermediate=0.0)
    torch.manual_seed(1)
    outputs = model.training_outputs(batch.features, batch.lengths)
    weight, extra = model.auxiliary_loss(outputs, batch.targets, batch.target_lengths)
    assert 0 < weight < 1
    expected = (1 - weight) * own + weight * extra
    torch.testing.assert_close(total, expected)
