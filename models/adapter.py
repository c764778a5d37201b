"""Wrap other modules as a `CTCModel`: any module `(features, lengths) -> (log_probs, lengths)` can be trained.

`create_model` passes what a registered function returns through `as_ctc_model`. A module that is not a `CTCModel` is
run on small inputs to find its stride, and is rejected with a one-line error if it cannot be trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import registry
from models.group_layer import GroupFacts, GroupLayer
from models.layers.frames import output_lengths, valid, zero_padding
from models.layers.lengths import Lengths
from models.network import CTCModel, TrainingOutputs
from registry import InputError
from registry.config import Config
from registry.errors import one_line

# With a larger stride, utterances may have fewer output frames than labels.
MAX_STRIDE = 16
# Utterance lengths in each probe batch. Lengths up to MAX_STRIDE + 1 distinguish all strides.
PROBES = (tuple(range(1, MAX_STRIDE + 2)), (1,), (61, 40))


class AdaptedModel(CTCModel):
    """A module `(features (N, T, F), lengths (N,)) -> (log_probs (N, T', C), lengths (N,))` as a `CTCModel`.

    It has no intermediate output layer and no loss besides CTC. Raises InputError if the module's output is not
    normalised log-probabilities of `classes` classes, or if T frames do not become ceil(T / stride).
    """

    def __init__(self, name: str, module: nn.Module, *, features: int, classes: int) -> None:
        super().__init__()
        self.module = module
        self.classes = classes
        self.stride = _stride(name, module, features, classes)

    def training_outputs(self, features: Tensor, lengths: Tensor) -> TrainingOutputs:
        """Log-probabilities of the module, for features `(N, T, F)` and lengths `(N,)`.

        The module gets the lengths on the features' device. The lengths that it returns were checked against its stride
        when it was wrapped; here they are computed on the CPU, because reading them would wait for the device.
        """
        known = Lengths(lengths)
        log_probs, _ = self.module(zero_padding(features, known), known.on(features.device))
        return TrainingOutputs(log_probs.float(), known.after(self.stride).host)


def as_ctc_model(name: str, module: Any, config: Config) -> CTCModel:
    """`module` if it is a `CTCModel`, else an `AdaptedModel` of it.

    Raises InputError, naming the model, for anything that is not an nn.Module.
    """
    if isinstance(module, CTCModel):
        missing = [attribute for attribute in ("stride", "classes") if not hasattr(module, attribute)]
        if missing:
            raise InputError(f"model '{name}': {type(module).__name__} does not set {' and '.join(missing)}")
        return module
    if not isinstance(module, nn.Module):
        raise InputError(f"model '{name}': the function returns a {type(module).__name__}; expected an nn.Module")
    return AdaptedModel(name, module, features=config.features, classes=config.classes)


def create_model(
    name: str,
    config: Config | None = None,
    *,
    features: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> CTCModel:
    """`registry.create_model` with a precise return type: the registry does not know `CTCModel`."""
    model = registry.create_model(name, config, features=features, classes=classes, **options)
    assert isinstance(model, CTCModel)
    return model


def build_network(name: str, config: Mapping[str, Any], group_layer: GroupFacts | None = None) -> CTCModel:
    """Model `name` with the options of its config dataclass, and a group layer in front if `group_layer` is given."""
    model = create_model(name, **config)
    if group_layer is not None:
        model.group_layer = GroupLayer(config["features"], group_layer)
    return model


def _stride(name: str, module: nn.Module, features: int, classes: int) -> int:
    """The stride of a module, inferred from its output lengths; raises InputError if it breaks the contract."""
    strides = set(range(1, MAX_STRIDE + 1))
    with _undisturbed(module):
        for frames in PROBES:
            lengths = _checked_run(name, module, frames, features, classes)
            expected = {stride: _expected(frames, stride) for stride in strides}
            strides = {stride for stride in strides if expected[stride] == lengths}
            if not strides:
                raise InputError(
                    f"model '{name}': {_listed(frames)} frames become {_listed(lengths)}; expected "
                    f"ceil(frames / stride) with a stride from 1 to {MAX_STRIDE}"
                )
    return min(strides)


def _expected(frames: tuple[int, ...], stride: int) -> list[int]:
    return output_lengths(torch.tensor(frames, device="cpu"), stride).tolist()


def _checked_run(name: str, module: nn.Module, frames: tuple[int, ...], features: int, classes: int) -> list[int]:
    """Output lengths for a batch of random utterances; raises InputError if the output is malformed."""
    batch, longest = len(frames), max(frames)
    where = f"model '{name}': features ({batch}, {longest}, {features}) with lengths {_listed(frames)}"
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    x = torch.randn(batch, longest, features, device="cpu").to(device)
    lengths = torch.tensor(frames, device="cpu").to(device)
    try:
        output = module(zero_padding(x, lengths), lengths)
    except Exception as error:
        raise InputError(f"{where}: the module fails: {one_line(error)}") from error
    pair = isinstance(output, tuple | list) and len(output) == 2
    if not pair or not all(isinstance(part, Tensor) for part in output):
        raise InputError(f"{where}: found {_kind(output)}; expected (log_probs (N, T', C), lengths (N,))")
    log_probs, ends = output
    if ends.shape != (batch,) or ends.is_floating_point():
        raise InputError(f"{where}: output lengths are {_kind(ends)}; expected integers ({batch},)")
    shape = (batch, max(ends.tolist()), classes)
    if log_probs.shape != shape:
        raise InputError(f"{where}: log-probabilities are {_kind(log_probs)}; expected {shape}, the classes last")
    _check_normalized(where, log_probs, ends)
    return ends.tolist()


def _check_normalized(where: str, log_probs: Tensor, lengths: Tensor) -> None:
    """Raise InputError unless the probabilities of every valid frame sum to 1, and none is NaN, not even in padding."""
    inside = log_probs[valid(lengths, log_probs.shape[1])].double()
    if bool(log_probs.isnan().any()) or not bool(inside.isfinite().all()):
        # NaN in padding would spread to the gradients.
        raise InputError(f"{where}: log-probabilities are NaN or infinite; expected finite numbers")
    sums = inside.exp().sum(dim=1)
    worst = float(sums[(sums - 1).abs().argmax()])
    if abs(worst - 1) > 1e-2:
        raise InputError(
            f"{where}: the probabilities of a frame sum to {worst:.4g}; expected 1: end with log_softmax(dim=2)"
        )


@contextlib.contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the module's modes and torch's random state are restored."""
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training


def _kind(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {tuple(output.shape)}"
    if isinstance(output, tuple | list):
        return f"({', '.join(map(_kind, output))})"
    return type(output).__name__


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
