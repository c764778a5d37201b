"""A step of training on random utterances, and a model's recurrent layers alone on the same shapes, to be timed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gpu_estimate import CLASSES, FEATURES, speech_lengths
from host_syncs import HostSyncs, cuda_syncs
from operation_counts import recurrent_layers
from torch import nn

from folds.competition.alphabets import F22
from folds.competition.base import Competition, SplitSource
from folds.data.batches import Batch
from folds.data.dataset import Dataset, Split
from folds.store.ragged import Ragged, offsets_of
from folds.store.run_folder import RunFolder
from folds.training.options import Precision, TrainingRecipe
from folds.training.schedule import Budget
from folds.training.shares import Share, SharePreparation, epoch_shares
from folds.training.signals import SignalCatcher
from folds.training.state import STEPS_PER_READ, State
from folds.training.step import train_step
from folds.training.task import TrainingTask
from models import CTCNetwork

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Input frames per utterance.
MEAN_FRAMES = 1231

Part = tuple[Share, Batch]


@dataclass(frozen=True)
class Case:
    """What is measured: a model at a batch size in frames, padding included, and a precision; where and how long."""

    model: str
    frames: int
    precision: str
    device: torch.device
    warmup: int
    steps: int
    """About how many batches."""

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
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class InMemory(Competition):
    """A competition without files."""

    alphabet = F22
    columns = ("index", "label")

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return False

    def read(self, split: str) -> SplitSource:
        return SplitSource(split, (), (), str, lambda index: np.empty((0, FEATURES)), None)

    def find_sample(self) -> None:
        return None


def random_dataset(frames: int) -> Dataset:
    """A competition with about this many random training frames, with one label per 8 frames."""
    random = np.random.default_rng(0)
    lengths = speech_lengths(max(1, round(frames / MEAN_FRAMES)), MEAN_FRAMES)
    features = random.standard_normal((int(lengths.sum()), FEATURES), dtype=np.float32)
    labels = random.integers(1, CLASSES, int((lengths // 8).sum())).astype(np.int16)
    ids = tuple(f"{index}" for index in range(len(lengths)))
    train = Split("train", ids, Ragged(features, offsets_of(lengths)), Ragged(labels, offsets_of(lengths // 8)))
    nothing = Split("none", (), Ragged(features[:0], offsets_of([])))
    return Dataset(
        competition=InMemory(Path()),
        root=Path(),
        format="random",
        alphabet=F22,
        features=FEATURES,
        header=("index", "label"),
        sample_ids=[],
        train=train,
        dev=nothing,
        test=nothing,
        hash="",
        path=Path(),
    )


class TrainingStep:
    """The training loop's own step, on one of an epoch's batches, which are prepared beforehand in `parts`."""

    def __init__(self, case: Case, network: CTCNetwork) -> None:
        precision: Precision = "fp16" if case.precision == "fp16" else "bf16" if case.precision == "bf16" else "fp32"
        recipe = TrainingRecipe(precision=precision, batch_frames=case.frames)
        dataset = random_dataset(case.steps * case.frames)
        self.task = TrainingTask(
            dataset=dataset,
            fitted=np.arange(len(dataset.train)),
            held_out=np.arange(0),
            recipe=recipe,
            seed=0,
            device=case.device,
            folder=RunFolder(Path()),
        )
        network.use_intermediate(recipe.intermediate > 0)
        self.network = network.to(case.device).train()
        self.state = self._new_state()
        shares = epoch_shares(self.task, self.state.counters)
        prepare = SharePreparation(self.task, network.stride)
        self.parts = [(share, prepare(share)) for share in shares]
        self._budget, self._signals = Budget(recipe, len(shares)), SignalCatcher()

    def _new_state(self) -> State:
        return State(self.network, self.task.recipe, self.task.device, self.task.seed, self.task.group)

    def __call__(self, part: Part) -> None:
        train_step(self.state, self.task, [part], self._signals, self._budget)
        self.state.counters.step += 1

    def host_syncs(self) -> int:
        """Operations of a step for which the host waits for the device.

        On a CPU, those of a step that leaves the update to the device, as on CUDA; layers still compute as on a CPU.
        """
        if self.task.device.type == "cuda":
            with cuda_syncs() as on_cuda:
                self(self.parts[0])
            return on_cuda.count
        with mock.patch.dict(STEPS_PER_READ, {self.task.device.type: STEPS_PER_READ["cuda"]}):
            self.state = self._new_state()
        with HostSyncs() as syncs:
            self(self.parts[0])
        return syncs.count


class RNNAlone:
    """Forward and backward of a model's recurrent layers, each on random padded input of its shape."""

    def __init__(self, case: Case, network: CTCNetwork) -> None:
        self.case = case
        self.layers = [(_new_layer(rnn).to(case.device), stride) for rnn, stride in recurrent_layers(network)]

    def __call__(self, part: Part) -> None:
        utterances, frames, _ = part[1].features.shape
        for rnn, stride in self.layers:
            shape = (utterances, -(-frames // stride), rnn.input_size)
            x = torch.randn(shape, device=self.case.device, requires_grad=True)
            with self.case.autocast():
                y = rnn(x)[0]
            y.backward(torch.ones_like(y))
            rnn.zero_grad(set_to_none=True)


def _new_layer(rnn: nn.RNNBase) -> nn.RNNBase:
    """An LSTM or GRU of the same shape, with new weights and without dropout."""
    cell = nn.LSTM if isinstance(rnn, nn.LSTM) else nn.GRU
    return cell(
        rnn.input_size, rnn.hidden_size, num_layers=rnn.num_layers, bidirectional=rnn.bidirectional, batch_first=True
    )


def seconds(action: Callable[[Part], None], parts: Sequence[Part], case: Case) -> float:
    """Wall time of the action on all batches, after it was run on the first `case.warmup` of them."""
    for part in parts[: case.warmup]:
        action(part)
    _synchronize(case.device)
    start = time.perf_counter()
    for part in parts:
        action(part)
    _synchronize(case.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
