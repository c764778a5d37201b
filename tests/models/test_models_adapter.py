"""Modules of other kinds as models: the stride is found, the contract is checked, and each fault is one line."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from models import CTCModel, ModelConfig, create_model
from models.adapter import AdaptedModel
from registry import MODELS, InputError, describe, register_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig(ModelConfig):
    stride: int = 3


class Stack(nn.Module):
    """Concatenated groups of frames, then one linear layer: what a user may write without our base classes."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.step = config.stride
        self.norm = nn.BatchNorm1d(config.features)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(config.features * config.stride, config.classes)
        self.norm.eval()  # frozen: probing must leave it so

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(self.norm(features.transpose(1, 2)).transpose(1, 2))
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % self.step))
        scores = self.linear(x.reshape(x.shape[0], -1, self.step * x.shape[2]))
        return self.result(scores.log_softmax(dim=2), -(-lengths // self.step))

    def result(self, log_probs: Tensor, lengths: Tensor):
        return log_probs, lengths


@pytest.fixture
def register(monkeypatch):
    """Register a module class under a name, for the time of a test."""
    MODELS.names()
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))

    def register(name: str, build) -> None:
        @register_model(name, tags="test")
        def model(config: StackConfig) -> nn.Module:
            """Stacked frames and a linear layer."""
            return build(config)

    return register


@pytest.mark.parametrize("stride", range(1, 17))
def test_the_stride_is_found(register, stride):
    register("stack", Stack)
    model = create_model("stack", features=5, classes=4, stride=stride)
    assert isinstance(model, CTCModel) and (model.stride, model.classes) == (stride, 4)
    ends = torch.tensor([40, 23])
    log_probs, lengths = model(torch.randn(2, 40, 5), ends)
    assert lengths.tolist() == model.output_lengths(ends).tolist() and log_probs.shape == (2, int(lengths[0]), 4)


def test_the_output_is_the_module_s(register):
    register("stack", Stack)
    model = create_model("stack", features=5, classes=4).eval()
    assert isinstance(model, AdaptedModel)
    x, ends = torch.randn(2, 10, 5), torch.tensor([10, 10])
    torch.testing.assert_close(model(x, ends)[0], model.module(x, ends)[0], rtol=0, atol=0)
    assert {name.split(".")[0] for name in model.state_dict()} == {"module"}


def test_the_module_reads_zeros_as_padding_and_may_compute_in_half_precision(register):
    register("half", returning(lambda log_probs, lengths: (log_probs.bfloat16(), lengths)))
    model = create_model("half", features=5, classes=4).eval()
    x, ends = torch.randn(2, 10, 5), torch.tensor([10, 5])
    x[1, 5:] = 100.0
    log_probs, _ = model(x, ends)
    alone, _ = model(x[1:, :5], ends[1:])
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs[1:, :2], alone, atol=0.02, rtol=0)


def test_probing_leaves_random_state_modes_and_statistics_alone(register):
    """A seed gives the same parameters and the same draws afterwards, with the adapter and without."""
    register("stack", Stack)
    torch.manual_seed(3)
    module = Stack(StackConfig(features=5, classes=4))
    draws = torch.rand(3)
    torch.manual_seed(3)
    model = create_model("stack", features=5, classes=4)
    assert torch.equal(torch.rand(3), draws)
    for name, value in module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], value), name
    assert model.training and model.module.dropout.training and not model.module.norm.training


def test_an_adapted_model_trains_without_intermediate_ctc(register):
    register("stack", Stack)
    model = create_model("stack", features=5, classes=4)
    outputs = model.training_outputs(torch.randn(2, 9, 5), torch.tensor([9, 5]))
    assert outputs.middle is None and not model.has_intermediate and not model.has_attention_scores
    assert model.auxiliary_loss(outputs, torch.tensor([1]), torch.tensor([1])) is None
    model.use_intermediate(False)
    with pytest.raises(InputError, match="--intermediate: this model has no intermediate output layer: pass --inter"):
        model.use_intermediate(True)
    outputs.log_probs.sum().backward()
    assert model.module.linear.weight.grad is not None


def test_the_listing_describes_an_adapted_model(register):
    register("stack", Stack)
    row = describe("stack")
    assert row.error == "" and row.stride == 3 and row.parameters == 28 * 3 * 41 + 41 + 2 * 28


def returning(change):
    """The class with another result."""
    return type("Changed", (Stack,), {"result": lambda self, log_probs, lengths: change(log_probs, lengths)})


LENGTHS = "features (17, 17, 5) with lengths 1 to 17"
CONTRACT = "expected (log_probs (N, T', C), lengths (N,))"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda config: "no module", "the function returns a str; expected an nn.Module"),
        (
            lambda config: nn.Linear(5, 4),
            f"{LENGTHS}: the module fails: TypeError: Linear.forward() takes 2 positional arguments but 3 were given",
        ),
        (returning(lambda x, n: x), f"{LENGTHS}: found float32 (17, 6, 4); {CONTRACT}"),
        (returning(lambda x, n: (x, None)), f"{LENGTHS}: found (float32 (17, 6, 4), NoneType); {CONTRACT}"),
        (returning(lambda x, n: (x, n[:3])), f"{LENGTHS}: output lengths are int64 (3,); expected integers (17,)"),
        (returning(lambda x, n: (x, n / 1)), f"{LENGTHS}: output lengths are float32 (17,); expected integers (17,)"),
        (
            returning(lambda x, n: (x.transpose(1, 2), n)),
            f"{LENGTHS}: log-probabilities are float32 (17, 4, 6); expected (17, 6, 4), the classes last",
        ),
        (
            returning(lambda x, n: (x[:, :-1], n)),
            f"{LENGTHS}: log-probabilities are float32 (17, 5, 4); expected (17, 6, 4), the classes last",
        ),
        (
            returning(lambda x, n: (x * 0, n)),
            f"{LENGTHS}: the probabilities of a frame sum to 4; expected 1: end with log_softmax(dim=2)",
        ),
        (
            returning(lambda x, n: (x / 0, n)),
            f"{LENGTHS}: log-probabilities are NaN or infinite; expected finite numbers",
        ),
        (
            returning(lambda x, n: (x, n.clamp(max=5))),
            f"{LENGTHS}: log-probabilities are float32 (17, 6, 4); expected (17, 5, 4), the classes last",
        ),
        (
            returning(lambda x, n: (x[:, 1:], (n - 1).clamp(min=1))),
            "1 to 17 frames become 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5; "
            "expected ceil(frames / stride) with a stride from 1 to 16",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(register, build, message):
    register("stack", build)
    with pytest.raises(InputError) as raised:
        create_model("stack", features=5, classes=4)
    assert str(raised.value) == f"model 'stack': {message}"


def test_values_in_padding_do_not_count_unless_they_are_nan(register):
    def masked(value: float):
        def change(log_probs: Tensor, lengths: Tensor):
            outside = torch.arange(log_probs.shape[1]) >= lengths[:, None]
            return log_probs.masked_fill(outside[:, :, None], value), lengths

        return change

    register("zero", returning(masked(0.0)))
    register("nan", returning(masked(float("nan"))))
    assert create_model("zero", features=5, classes=4).stride == 3
    with pytest.raises(InputError, match="log-probabilities are NaN or infinite"):
        create_model("nan", features=5, classes=4)


def test_a_subclass_that_sets_no_stride_is_one_line(register):
    class Bare(CTCModel):
        def __init__(self, config) -> None:
            super().__init__()

    register("bare", Bare)
    with pytest.raises(InputError, match="model 'bare': Bare does not set stride and classes"):
        create_model("bare", features=5, classes=4)
