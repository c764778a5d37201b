"""A step of training on random batches, and a model's recurrent layers alone on the same shapes; both can be timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from gpu_estimate import CLASSES, FEATURES, speech_lengths
from host_reads import HostReads, cuda_reads
from operation_counts import recurrent_layers
from torch import nn

from folds.data.batches import Batch, plan
from folds.training.distributed import ProcessGroup
from folds.training.options import TrainingRecipe
from folds.training.state import State
from models import CTCNetwork
from models.layers.frames import valid

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Utterances that batches are planned from.
UTTERANCES, MEAN_FRAMES = 4000, 1231


@dataclass(frozen=True)
class Case:
    """What is measured: a model, at most `frames` frames per batch with padding, a precision, and where and how long."""

    model: str
    frames: int
    precision: str
    device: torch.device
    warmup: int
    steps: int

    def autocast(self) -> torch.autocast:
        """Autocast to the precision."""
        dtype = DTYPES[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def available_precisions(device: torch.device) -> list[str]:
    """The precisions that the device computes in: Turing and Volta have neither TF32 nor bf16."""
    if device.type != "cuda":
        return ["fp32", "bf16"]
    return list(DTYPES) if torch.cuda.get_device_capability(device) >= (8, 0) else ["fp32", "fp16"]


@contextlib.contextmanager
def float32_arithmetic(precision: str) -> Iterator[None]:
    """Within the block, float32 matrix products on CUDA use TF32, unless the precision is "fp32"."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision != "fp32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def random_batches(frames: int, count: int, device: torch.device) -> list[Batch]:
    """Random batches of up to `frames` frames on the device, planned as in training, with one label per 8 frames."""
    torch.manual_seed(0)
    all_lengths = speech_lengths(UTTERANCES, MEAN_FRAMES)
    batches = []
    for chosen in plan(all_lengths, frames=frames, seed=0)[:count]:
        lengths = torch.from_numpy(all_lengths[chosen])
        labels = lengths // 8
        features = torch.randn(len(chosen), int(lengths.max()), FEATURES)
        features *= valid(lengths, features.shape[1])[:, :, None]
        targets = torch.randint(1, CLASSES, (int(labels.sum()),))
        batches.append(Batch(features, lengths, targets, labels, tuple(chosen.tolist())).to(device))
    return batches


class TrainingStep:
    """A step of training: `gradients`, then `update`, with the objective, optimizer and loss scaler of training."""

    def __init__(self, case: Case, network: CTCNetwork) -> None:
        recipe = TrainingRecipe(
            precision="fp16" if case.precision == "fp16" else "bf16" if case.precision == "bf16" else "fp32"
        )
        self.case, self.clip = case, recipe.clip
        network.use_intermediate(recipe.intermediate > 0)
        self.state = State(network.to(case.device).train(), recipe, case.device, 0, ProcessGroup())

    def __call__(self, batch: Batch) -> None:
        self.gradients(batch)
        self.update()

    def gradients(self, batch: Batch) -> None:
        """Forward, loss and backward."""
        state = self.state
        state.begin_step()
        state.counters.step += 1
        state.optimizer.zero_grad(set_to_none=True)
        with self.case.autocast():
            loss, _ = state.objective(batch)
        state.scaler.scale(loss).backward()

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        state = self.state
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), self.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()

    def host_reads(self, batch: Batch) -> int:
        """Operations of a step for which the host waits for the device; those of `update` on CUDA only.

        Elsewhere AdamW's reads of its step counts would be counted, which on CUDA are on the host as well.
        """
        if self.case.device.type == "cuda":
            with cuda_reads() as on_cuda:
                self(batch)
            return on_cuda.count
        with HostReads() as reads:
            self.gradients(batch)
        self.update()
        return reads.count


class RNNAlone:
    """Forward and backward of a model's recurrent layers, each on random padded input of its shape."""

    def __init__(self, case: Case, network: CTCNetwork) -> None:
        self.case = case
        self.layers = [(_new_layer(rnn).to(case.device), stride) for rnn, stride in recurrent_layers(network)]

    def __call__(self, batch: Batch) -> None:
        utterances, frames, _ = batch.features.shape
        for rnn, stride in self.layers:
            shape = (utterances, -(-frames // stride), rnn.input_size)
            x = torch.randn(shape, device=self.case.device, requires_grad=True)
            with self.case.autocast():
                y = rnn(x)[0]
            y.backward(torch.ones_like(y))


def _new_layer(rnn: nn.RNNBase) -> nn.RNNBase:
    """An LSTM or GRU of the same shape, with new weights and without dropout."""
    cell = nn.LSTM if isinstance(rnn, nn.LSTM) else nn.GRU
    return cell(
        rnn.input_size, rnn.hidden_size, num_layers=rnn.num_layers, bidirectional=rnn.bidirectional, batch_first=True
    )


def seconds(action: Callable[[Batch], None], batches: Sequence[Batch], case: Case) -> float:
    """Wall time of the action on all batches, after it was run on the first `case.warmup` of them."""
    for batch in batches[: case.warmup]:
        action(batch)
    _synchronize(case.device)
    start = time.perf_counter()
    for batch in batches:
        action(batch)
    _synchronize(case.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
