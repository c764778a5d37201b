"""One contract over every registered model; a new model is tested the moment it is registered."""

from __future__ import annotations

import io

import pytest
import torch
from safetensors.torch import load, save

from registry import create_model, describe, list_models, model_config

FEATURES, CLASSES = 13, 41
# The large variants are the small ones with other numbers: their sizes are checked, not their arithmetic.
RUN = list_models("*_small")


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, features=FEATURES, classes=CLASSES)


def batch(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ends = torch.tensor(lengths)
    return torch.randn(len(lengths), max(lengths), FEATURES), ends


def test_families_have_three_sizes():
    for family in ("gru", "lstm", "pblstm", "cnn_lstm", "conformer", "las"):
        small, base, large = (describe(name).parameters for name in (f"{family}_small", family, f"{family}_large"))
        assert small < base < large < 20_000_000


@pytest.mark.parametrize("name", list_models())
def test_listing_row(name):
    row = describe(name)
    assert row.error == "" and row.parameters > 0 and row.stride >= 1 and row.doc
    config = model_config(name, features=FEATURES, classes=CLASSES)
    assert (config.features, config.classes) == (FEATURES, CLASSES)


@pytest.mark.parametrize("name", RUN)
def test_shapes_lengths_and_distribution(name):
    model = build(name).eval()
    x, ends = batch(61, 40, 23)
    log_probs, lengths = model(x, ends)
    expected = -(-ends // model.stride)
    assert lengths.tolist() == expected.tolist() == model.output_lengths(ends).tolist()
    assert log_probs.shape == (3, int(expected.max()), CLASSES) and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=2), torch.ones(log_probs.shape[:2]))


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8, 11, 12, 13])
def test_every_length_keeps_its_frames(name, frames):
    model = build(name).eval()
    log_probs, lengths = model(*batch(frames, frames))
    assert lengths.tolist() == [-(-frames // model.stride)] * 2 == [log_probs.shape[1]] * 2


@pytest.mark.parametrize("name", RUN)
def test_alone_and_in_a_batch_give_the_same(name):
    model = build(name).eval()
    x, ends = batch(64, 41, 22, 7)
    x[1, 41:] = 100.0  # what lies past the end must not matter, whatever it holds
    together, lengths = model(x, ends)
    for row, end in enumerate(ends.tolist()):
        alone, length = model(x[row : row + 1, :end], ends[row : row + 1])
        assert int(length) == int(lengths[row])
        torch.testing.assert_close(together[row, : int(length)], alone[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RUN)
def test_padding_does_not_change_training(name):
    """Loss and gradients of a batch do not see how far it is padded: batch statistics are over valid frames."""
    losses, gradients = [], []
    for extra in (0, 24):
        torch.manual_seed(0)
        model = create_model(name, features=FEATURES, classes=CLASSES, dropout=0.0).train()
        x, ends = batch(48, 36)
        log_probs, lengths = model(torch.nn.functional.pad(x, (0, 0, 0, extra)), ends)
        loss = -log_probs[0, : lengths[0], 3].sum() - log_probs[1, : lengths[1], 5].sum()
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", RUN)
def test_gradients_reach_every_parameter(name):
    model = build(name).train()
    heads = model.training_outputs(*batch(64, 50))
    weights = torch.randn(CLASSES)
    more = model.auxiliary_loss(heads, torch.tensor([1, 2, 2, 3]), torch.tensor([3, 1]))
    beside = 0.0 if more is None else more[1]
    ((heads.log_probs * weights).mean() + (heads.middle * weights).mean() + beside).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("name", RUN)
def test_state_round_trip(name):
    model = build(name).eval()
    torch.manual_seed(9)
    other = create_model(name, features=FEATURES, classes=CLASSES).eval()
    other.load_state_dict(load(io.BytesIO(save(model.state_dict())).getvalue()))
    x, ends = batch(33, 20)
    assert torch.equal(model(x, ends)[0], other(x, ends)[0])


@pytest.mark.parametrize("name", RUN)
def test_bf16_autocast(name):
    model = build(name).eval()
    x, ends = batch(40, 30)
    exact = model(x, ends)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x, ends)[0]
    assert rough.dtype == torch.float32
    assert float((rough[0] - exact[0]).detach().abs().max()) < 0.15
