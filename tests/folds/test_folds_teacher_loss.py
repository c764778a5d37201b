"""The loss of distillation: by hand counts, by single sequences, and for a certain teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from folds.data.batches import Batch, SoftTargets
from folds.training.objective import ctc, objective, soft_ctc
from models import create_model
from models.ctc import log_likelihood


def a_soft_batch() -> Batch:
    torch.manual_seed(0)
    soft = SoftTargets(
        rows=torch.tensor([0, 0, 1, 1]),
        targets=torch.tensor([1, 2, 2, 1, 2, 3, 1, 5, 5, 5, 5, 5, 5, 5]),
        target_lengths=torch.tensor([3, 2, 2, 7]),
        weights=torch.tensor([0.75, 0.25, 0.9, 0.1]),
    )
    transcripts = torch.tensor([1, 2, 2, 3, 1])
    lengths = torch.tensor([40, 24])
    return Batch(torch.randn(2, 40, 5), lengths, transcripts, torch.tensor([3, 2]), (0, 1), soft=soft)


def test_the_loss_is_the_expected_log_likelihood_under_the_teacher():
    """The last sequence has no path: seven equal labels need 13 frames, and the utterance has 12."""
    batch, lengths = a_soft_batch(), torch.tensor([20, 12])
    log_probs = torch.randn(2, 20, 6).log_softmax(dim=2)
    first = log_likelihood(log_probs[0].numpy(), [[1, 2, 2], [1, 2]])
    (second,) = log_likelihood(log_probs[1, :12].numpy(), [[3, 1]])
    expected = -(0.75 * first[0] + 0.25 * first[1] + 0.9 * second) / 5
    assert float(soft_ctc(log_probs, lengths, batch)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_the_weighted_mean_of_those_of_single_sequences():
    batch, lengths = a_soft_batch(), torch.tensor([20, 12])
    log_probs = torch.randn(2, 20, 6).log_softmax(dim=2)
    expected = torch.zeros_like(log_probs)
    for row, sequence, weight in ((0, [1, 2, 2], 0.75), (0, [1, 2], 0.25), (1, [3, 1], 0.9)):
        leaf = log_probs[row : row + 1, : lengths[row]].clone().requires_grad_()
        one = replace(batch, targets=torch.tensor(sequence), target_lengths=torch.tensor([len(sequence)]), soft=None)
        ctc(leaf, lengths[row : row + 1], one).backward()
        assert leaf.grad is not None
        expected[row, : lengths[row]] += weight * len(sequence) * leaf.grad[0] / 5
    leaf = log_probs.clone().requires_grad_()
    soft_ctc(leaf, lengths, batch).backward()
    torch.testing.assert_close(leaf.grad, expected)


def test_the_teacher_has_its_share_of_every_ctc_loss():
    model = create_model("lstm_small", features=5, classes=6, hidden=8, dropout=0.0)
    batch = a_soft_batch()
    final, lengths, middle, middle_lengths, _ = model.training_outputs(batch.features, batch.lengths)
    assert middle is not None and middle_lengths is not None
    hard = [ctc(*outputs, batch).item() for outputs in ((final, lengths), (middle, middle_lengths))]
    soft = [soft_ctc(*outputs, batch).item() for outputs in ((final, lengths), (middle, middle_lengths))]
    mixed = [0.6 * one + 0.4 * other for one, other in zip(hard, soft, strict=True)]
    total, own = objective(model, batch, intermediate=0.3, teacher_weight=0.4)
    assert total.item() == pytest.approx(0.7 * mixed[0] + 0.3 * mixed[1], rel=1e-5)
    assert float(own) == pytest.approx(hard[0], rel=1e-5)


def test_a_certain_teacher_is_the_transcript():
    batch, lengths = a_soft_batch(), torch.tensor([20, 12])
    log_probs = torch.randn(2, 20, 6).log_softmax(dim=2)
    soft = SoftTargets(torch.arange(2), batch.targets, batch.target_lengths, torch.ones(2))
    same = replace(batch, soft=soft)
    assert float(soft_ctc(log_probs, lengths, same)) == pytest.approx(float(ctc(log_probs, lengths, batch)), rel=1e-6)
