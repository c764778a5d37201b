"""One contract over every registered model, those of users and plug-ins included; big models run at a reduced size."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from models import CTCModel, create_model
from registry import MODELS, InputError, describe, list_models, model_config
from registry.config import Config

FEATURES, CLASSES = 13, 41
RUN = list_models()
# Models with fewer parameters run as they are.
SMALL = 2_500_000


def reduced(name: str, config: Config) -> Config:
    """`config` with the integers of its fields as small as the model can be built with, first to last.

    Widths, from 32 on, become at least 16; numbers of layers and sizes of kernels, from 5 on, at least 3. Strides and
    the like are smaller and stay.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("features", "classes") or _smaller(value, 0) == value:
            continue
        for step in range(512):
            candidate = _smaller(value, step)
            if candidate == value or _can_be_built(name, config, {field.name: candidate}):
                config = dataclasses.replace(config, **{field.name: candidate})
                break
    return config


def _smaller(value: Any, step: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_smaller(item, step) for item in value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 5:
        return value
    return min(value, (16 if value >= 32 else 3) + step)


def _can_be_built(name: str, config: Config, change: dict[str, Any]) -> bool:
    try:
        changed = dataclasses.replace(config, **change)
        with torch.device("meta"):
            MODELS.get(name)(changed)
    except (InputError, ValueError, RuntimeError, AssertionError):
        return False
    return True


def build(name: str, seed: int = 0, **options: Any) -> CTCModel:
    config = model_config(name, features=FEATURES, classes=CLASSES)
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{key: value for key, value in options.items() if key in known})
    if describe(name).parameters > SMALL:
        config = reduced(name, config)
    torch.manual_seed(seed)
    return create_model(name, config)


def batch(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ends = torch.tensor(lengths)
    return torch.randn(len(lengths), max(lengths), FEATURES), ends


def test_every_file_under_models_loads():
    assert {label: reason for label, reason in MODELS.broken().items() if label.endswith(".py")} == {}


def test_families_have_three_sizes():
    for family in ("gru", "lstm", "pblstm", "cnn_lstm", "conformer", "las"):
        small, base, large = (describe(name).parameters for name in (f"{family}_small", family, f"{family}_large"))
        assert small < base < large < 20_000_000


@pytest.mark.parametrize("name", RUN)
def test_listing_row(name):
    row = describe(name)
    assert row.error == "" and row.parameters > 0 and row.stride >= 1 and row.doc
    config = model_config(name, features=FEATURES, classes=CLASSES)
    assert (config.features, config.classes) == (FEATURES, CLASSES)


@pytest.mark.parametrize("name", RUN)
def test_a_reduced_model_is_small_and_of_the_same_stride(name):
    model = build(name)
    assert isinstance(model, CTCModel) and model.classes == CLASSES and model.stride == describe(name).stride
    assert sum(parameter.numel() for parameter in model.parameters()) < SMALL


def structure(model: torch.nn.Module) -> dict[str, Any]:
    """The shapes of all parameters, and the numbers that modules keep: strides, rates of dropout and the like."""
    numbers = {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, int | float)
    }
    return numbers | {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def changes(value: Any) -> list[Any]:
    """Other values of an option, of which at least one is valid."""
    if isinstance(value, tuple):
        return [tuple(other) for other in zip(*map(changes, value), strict=True)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    return [value + 1, value + 2, 2 * value] if isinstance(value, int) else [(value + 1) / 2, value / 2 + 0.01]


@pytest.mark.parametrize("name", RUN)
def test_every_number_of_a_config_changes_the_network(name):
    config = model_config(name, features=FEATURES, classes=CLASSES)
    with torch.device("meta"):
        plain = structure(MODELS.get(name)(config))
        for field in dataclasses.fields(config):
            others = [{field.name: other} for other in changes(getattr(config, field.name))]
            valid = [other for other in others if _can_be_built(name, config, other)]
            assert bool(valid) == bool(others), field.name
            for other in valid:
                assert structure(MODELS.get(name)(dataclasses.replace(config, **other))) != plain, other


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
    x[1, 41:] = 100.0  # padding must not matter, whatever it holds
    together, lengths = model(x, ends)
    for row, end in enumerate(ends.tolist()):
        alone, length = model(x[row : row + 1, :end], ends[row : row + 1])
        assert int(length) == int(lengths[row])
        torch.testing.assert_close(together[row, : int(length)], alone[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RUN)
def test_padding_does_not_change_training(name):
    """Loss and gradients do not depend on how far a batch is padded: batch statistics are over valid frames."""
    losses, gradients = [], []
    for extra in (0, 24):
        model = build(name, dropout=0.0).train()
        for module in model.modules():
            if "Dropout" in type(module).__name__:
                module.p = 0.0
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
    outputs = model.training_outputs(*batch(64, 50))
    weights = torch.randn(CLASSES)
    loss = (outputs.log_probs * weights).mean()
    assert model.has_intermediate == (outputs.middle is not None)
    if outputs.middle is not None:
        loss = loss + (outputs.middle * weights).mean()
    auxiliary = model.auxiliary_loss(outputs, torch.tensor([1, 2, 2, 3]), torch.tensor([3, 1]))
    if auxiliary is not None:
        loss = loss + auxiliary[1]
    loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("name", RUN)
def test_state_round_trip(name):
    model, other = build(name).eval(), build(name, seed=9).eval()
    other.load_state_dict(load(save(model.state_dict())))
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
