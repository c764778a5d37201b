"""A training step of every model reads nothing from the device and waits for no copy to it.

On the `meta` device tensors have no values, so whatever needs them on the host fails: `item`, `nonzero`, boolean
indices, `cpu`. Copies from the host, which wait for CUDA unless they are `non_blocking`, are counted. CTC has no meta
kernel; a stand-in checks that it gets its lengths on the CPU, from which its CUDA kernel reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from test_models_contract import CLASSES, FEATURES, build
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from folds.data.batches import Batch
from folds.training.objective import objective
from models import CTCModel, GroupFacts, GroupLayer
from models.layers import Bidirectional, FrameLayer
from registry import list_models

META = torch.device("meta")


class CopiesToDevice(TorchDispatchMode):
    """Within the `with` block, counts copies from the CPU to the meta device, by whether the host waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocking = self.non_blocking = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sources = [args[1]] if func is torch.ops.aten.copy_.default else args[:1]
        copies = isinstance(result, Tensor) and result.device == META and func.overloadpacket in COPIES
        if copies and any(isinstance(source, Tensor) and source.device.type == "cpu" for source in sources):
            waits = not ((kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2] is True))
            self.blocking += waits
            self.non_blocking += not waits
        return result


COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)


class ValuesToDevice(TorchFunctionMode):
    """Counts tensors that are made on the meta device of Python's values, a copy that the host waits for."""

    def __init__(self, copies: CopiesToDevice) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], Tensor):
            self.copies.blocking += result.device == META
        return result


@pytest.fixture(autouse=True)
def _ctc(monkeypatch: pytest.MonkeyPatch) -> None:
    def ctc_loss(log_probs: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor, **options: Any) -> Tensor:
        assert (lengths.device.type, target_lengths.device.type) == ("cpu", "cpu")
        return log_probs.sum()

    monkeypatch.setattr(torch.nn.functional, "ctc_loss", ctc_loss)


def meta_batch() -> Batch:
    """Two views of three utterances; lengths are on the CPU, as in training."""
    lengths, labels = torch.tensor([48, 41, 22] * 2), torch.tensor([3, 2, 1] * 2)
    targets = torch.ones(12, dtype=torch.long, device=META)
    features, groups = torch.zeros(6, 48, FEATURES, device=META), ("a", "b", "unknown") * 2
    return Batch(features, lengths, targets, labels, (0, 1, 2) * 2, groups=groups)


def step(model: CTCModel) -> CopiesToDevice:
    """Forward, loss and backward with intermediate CTC, agreement of views and the model's own loss."""
    batch = meta_batch()
    with CopiesToDevice() as copies, ValuesToDevice(copies):
        intermediate = 0.3 if model.has_intermediate else 0.0
        total, _ = objective(model, batch, intermediate=intermediate, consistency=0.2)
        total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return copies


@pytest.mark.parametrize("packs", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", list_models())
def test_a_step_reads_nothing_from_the_device(name, packs, monkeypatch):
    monkeypatch.setattr(Bidirectional, "packs", staticmethod(lambda x: packs))
    model = build(name).to(META).train()
    assert step(model).blocking == 0


@pytest.mark.parametrize("name", list_models())
def test_a_step_with_a_group_layer_reads_nothing_from_the_device(name):
    model = build(name)
    model.group_layer = GroupLayer(FEATURES, GroupFacts("speaker", ("a", "b")))
    assert step(model.to(META).train()).blocking == 0


@pytest.mark.parametrize("name", list_models())
def test_evaluation_reads_nothing_from_the_device(name):
    model = build(name).to(META).eval()
    batch = meta_batch()
    with torch.no_grad(), CopiesToDevice() as copies, ValuesToDevice(copies):
        log_probs, lengths = model(batch.features, batch.lengths)
    assert log_probs.shape == (6, -(-48 // model.stride), CLASSES) and lengths.device.type == "cpu"
    assert copies.blocking == 0


def waiting_copy(x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[2], device="cpu").to(x.device)


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.detach().sum()),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.sum().tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.detach().numpy(),
    "nonzero": lambda x: (x > 0).nonzero(),
    "boolean index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "repeats by a tensor": lambda x: x.flatten().repeat_interleave(x.flatten().long()),
}


def with_change(change: Callable[[Tensor], Tensor]) -> CTCModel:
    """A model whose first layer's output is changed."""
    model = build("cnn_lstm_small").to(META).train()
    first = next(module for module in model.modules() if isinstance(module, FrameLayer))
    first.register_forward_hook(lambda module, args, output: (change(output[0]), output[1]))
    return model


def with_read(read: Callable[[Tensor], object]) -> CTCModel:
    """A model that reads its first layer's output."""

    def change(x: Tensor) -> Tensor:
        read(x)
        return x

    return with_change(change)


@pytest.mark.parametrize("read", READS)
def test_a_read_is_found(read):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError), match=r"(?i)meta|fake|no data"):
        step(with_read(READS[read]))


@pytest.mark.parametrize("copy", [waiting_copy, lambda x: torch.tensor([1.0, 2.0], device=x.device)])
def test_a_copy_that_the_host_waits_for_is_found(copy):
    assert step(with_change(lambda x: x + copy(x).sum())).blocking == 1


@pytest.mark.parametrize(("name", "rates"), [("conformer_small", 3), ("lstm_small", 3), ("cnn_lstm_small", 2)])
def test_lengths_are_copied_once_per_frame_rate(name, rates):
    """The masks of all layers of one frame rate are one tensor."""
    model = build(name).to(META).train()
    batch = meta_batch()
    with CopiesToDevice() as copies:
        model.training_outputs(batch.features, batch.lengths)
    assert copies.non_blocking == rates
