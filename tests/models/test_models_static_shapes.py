"""What devices other than the CPU compute, masked norms and packed recurrent layers, equals what the CPU computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models_contract import CLASSES, FEATURES, batch, build
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models import CTCModel, CTCNetwork, ModelConfig, create_model
from models.layers import Bidirectional, FrameNorm, Lengths, valid
from models.layers.lengths import Packing
from registry import list_models

RECURRENT = [name for name in list_models(tags="recurrent") if name.endswith("_small")]


def use_packing(monkeypatch: pytest.MonkeyPatch, packs: bool) -> None:
    monkeypatch.setattr(Bidirectional, "packs", staticmethod(lambda x: packs))


def use_masked_norms(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    monkeypatch.setattr(FrameNorm, "gathers", staticmethod(lambda x: not masked))


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, extra=st.integers(0, 3))
def test_a_packing_is_that_of_torch(lengths, extra):
    frames = max(lengths) + extra
    x = torch.randn(len(lengths), frames, 4)
    expected = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    packing = Lengths(torch.tensor(lengths)).packing(frames, x.device)
    assert torch.equal(packing.batch_sizes, expected.batch_sizes)
    sorted_lengths = torch.tensor(lengths)[expected.sorted_indices]
    assert sorted_lengths.tolist() == sorted(lengths, reverse=True)
    # Among equally long utterances the order is free.
    by_time = packing.pack(x).split(packing.batch_sizes.tolist())
    for ours, theirs in zip(by_time, expected.data.split(expected.batch_sizes.tolist()), strict=True):
        torch.testing.assert_close(ours.sort(dim=0)[0], theirs.sort(dim=0)[0], atol=0, rtol=0)
    assert torch.equal(packing.unpack(packing.pack(x)), x * valid(torch.tensor(lengths), frames)[:, :, None])
    of_utterance = torch.arange(len(lengths))[:, None]
    expanded = packing.by_frame(of_utterance), packing.pack(of_utterance[:, None].expand(-1, frames, -1))
    assert torch.equal(*expanded)


def test_masks_and_indices_are_made_once_and_shared_by_layers_of_stride_1():
    lengths = Lengths(torch.tensor([5, 3, 4]))
    cpu = torch.device("cpu")
    assert lengths.after(1) is lengths and Lengths.of(lengths) is lengths
    assert lengths.mask(5, cpu) is lengths.mask(5, cpu) and lengths.packing(5, cpu) is lengths.packing(5, cpu)
    assert lengths.mask(6, cpu).sum(dim=1).tolist() == [5, 3, 4] and lengths.mask(6, cpu).shape == (3, 6)
    assert lengths.after(3).host.tolist() == [2, 1, 2] and lengths.total == 12
    assert lengths.rows(5).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13]
    assert lengths.reversed_rows(5, cpu).tolist() == [4, 3, 2, 1, 0, 7, 6, 5, 8, 9, 13, 12, 11, 10, 14]


def norm_results(norm: FrameNorm, x: Tensor, lengths: Tensor) -> list[Tensor]:
    """Two training passes, then evaluation: outputs, gradients, statistics."""
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        norm.zero_grad()
        y = norm(leaf, lengths)
        (y * weights).sum().backward()
        gradients = [part.grad.clone() for part in (leaf, *norm.parameters()) if part.grad is not None]
        assert len(gradients) == 3
        results += [y.detach(), *gradients, *(buffer.clone() for buffer in norm.buffers())]
    return [*results, norm.eval()(x, lengths).detach()]


def test_a_single_frame_is_trained_on(monkeypatch):
    """The shortest utterance may be alone in an epoch's last batch; its variance is 0."""
    for masked in (False, True):
        use_masked_norms(monkeypatch, masked)
        norm = FrameNorm(3).train()
        assert norm(torch.randn(1, 1, 3), torch.tensor([1])).abs().max() < 1e-6


@pytest.mark.parametrize("offset", [0.0, 300.0])
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS.filter(lambda lengths: sum(lengths) > 3), extra=st.integers(0, 3))
def test_masked_sums_normalise_as_gathered_frames(offset, lengths, extra):
    """Also far from zero, where a variance by sums of squares would lose its digits, and whatever padding holds."""
    results = []
    for masked in (False, True):
        torch.manual_seed(0)
        norm = FrameNorm(3)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        ends = torch.tensor(lengths)
        x = torch.randn(len(lengths), max(lengths) + extra, 3) + offset
        x[~valid(ends, x.shape[1])] = 1e6
        with pytest.MonkeyPatch.context() as patch:
            use_masked_norms(patch, masked)
            results.append(norm_results(norm, x, ends))
    tolerance = 1e-4 if offset == 0 else 5e-3
    for gathered, masked_result in zip(*results, strict=True):
        torch.testing.assert_close(masked_result, gathered, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_a_masked_norm_keeps_the_type_under_autocast(training, monkeypatch):
    use_masked_norms(monkeypatch, True)
    norm = FrameNorm(3).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(torch.randn(2, 5, 3).bfloat16(), torch.tensor([5, 2]))
    assert y.dtype == torch.bfloat16


def outputs_and_gradients(model: CTCModel, x: Tensor, lengths: Tensor) -> list[Tensor]:
    """Both outputs, and the gradients of a random weighting of their valid frames; dropout from one random state."""
    torch.manual_seed(5)
    outputs = model.training_outputs(x, lengths)
    generator, results, total = torch.Generator().manual_seed(2), [], torch.zeros(())
    for log_probs, ends in ((outputs.log_probs, outputs.lengths), (outputs.middle, outputs.middle_lengths)):
        assert log_probs is not None and ends is not None
        inside = valid(ends, log_probs.shape[1])
        results.append(log_probs[inside].detach())
        total = total + (log_probs[inside] * torch.randn(results[-1].shape, generator=generator)).sum()
    model.zero_grad()
    total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return [*results, torch.rand(3), *gradients]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", RECURRENT)
def test_packed_layers_in_sequence_equal_padded_ones(name, dropout, monkeypatch):
    """LSTM and GRU, before and after a pyramid, with the same draws of dropout; both outputs and all gradients."""
    results = []
    for packs in (False, True):
        use_packing(monkeypatch, packs)
        model = build(name, dropout=dropout).train()
        results.append(outputs_and_gradients(model, *batch(33, 64, 41, 64, 7)))
        with torch.no_grad():
            evaluated = model.eval().training_outputs(*batch(33, 64, 41, 64, 7))
        results[-1].append(evaluated.log_probs[valid(evaluated.lengths, evaluated.log_probs.shape[1])])
    for index, (padded, packed) in enumerate(zip(*results, strict=True)):
        tolerance = 1e-5 if index < 3 else 1e-4
        torch.testing.assert_close(packed, padded, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(results[1][-1], results[0][-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_single_packed_layer_equals_the_padded_one(cell, monkeypatch):
    """As a layer of a user's module is called, with padded frames and lengths as a tensor."""
    torch.manual_seed(0)
    layer = Bidirectional(4, 3, cell=cell, dropout=0.4).train()
    x, ends = torch.randn(3, 9, 4), torch.tensor([4, 9, 6])
    outputs = []
    for packs in (False, True):
        use_packing(monkeypatch, packs)
        torch.manual_seed(1)
        y, lengths = layer(x, ends)
        assert lengths.host.tolist() == [4, 9, 6]
        outputs.append(y * valid(ends, 9)[:, :, None])
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    assert (outputs[1] == 0).any() and not (outputs[1] == 0).all()


# Packed: once per run of recurrent layers. Unpacked: at its end, and where intermediate CTC reads.
@pytest.mark.parametrize(
    ("name", "packed", "unpacked"),
    [("lstm_small", 1, 2), ("gru_small", 1, 2), ("cnn_lstm_small", 1, 1), ("pblstm_small", 2, 3)],
)
def test_frames_are_packed_once_per_run_of_recurrent_layers(name, packed, unpacked, monkeypatch):
    use_packing(monkeypatch, True)
    calls: list[str] = []

    def counted(method: str) -> Callable[[Packing, Tensor], Tensor]:
        original = getattr(Packing, method)

        def call(packing: Packing, x: Tensor) -> Tensor:
            calls.append(method)
            return original(packing, x)

        return call

    for method in ("pack", "unpack"):
        monkeypatch.setattr(Packing, method, counted(method))
    build(name).training_outputs(*batch(30, 21))
    assert (calls.count("pack"), calls.count("unpack")) == (packed, unpacked)


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith("_small")])
def test_masked_and_packed_models_learn_as_on_the_cpu(name, monkeypatch):
    results = []
    for elsewhere in (False, True):
        use_packing(monkeypatch, elsewhere)
        use_masked_norms(monkeypatch, elsewhere)
        model = build(name, dropout=0.0).train()
        model.use_intermediate(True)
        results.append([*outputs_and_gradients(model, *batch(61, 40, 23)), *map(torch.clone, model.buffers())])
    for on_cpu, other in zip(*results, strict=True):
        torch.testing.assert_close(other, on_cpu, atol=2e-4, rtol=1e-3)


def test_lengths_may_be_on_any_device_and_are_returned_on_the_cpu():
    model = create_model("lstm_small", features=FEATURES, classes=CLASSES, hidden=8).eval()
    x, ends = batch(13, 8)
    log_probs, lengths = model(x, ends.int())
    assert lengths.dtype == torch.int64 and lengths.device.type == "cpu" and lengths.tolist() == [4, 2]
    assert torch.equal(log_probs, model(x, ends)[0])


def test_a_network_ends_with_a_packed_or_another_layer(monkeypatch):
    use_packing(monkeypatch, True)
    layers = [Bidirectional(FEATURES, 4), Bidirectional(8, 4)]
    network = CTCNetwork(ModelConfig(features=FEATURES, classes=CLASSES), layers)
    outputs = network.training_outputs(*batch(9, 4))
    assert outputs.states is not None and outputs.states.shape == (2, 9, 8) and outputs.states[1, 4:].eq(0).all()


SHARED = """
import os
import sys
import torch
import torch.distributed as dist
from models.layers import FrameNorm

rank, folder = int(sys.argv[1]), sys.argv[2]
store = dist.FileStore(f"{folder}/store", 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
x, lengths, weights = torch.load(f"{folder}/batch.pt")
mine = slice(0, 1) if rank == 0 else slice(1, None)  # unequal numbers of frames
count, original = [], dist.all_reduce
dist.all_reduce = lambda *args, **kwargs: count.append(1) or original(*args, **kwargs)
norm, leaf = FrameNorm(3), x[mine].clone().requires_grad_()
y = norm(leaf, lengths[mine])
forward = len(count)
(y * weights[mine]).sum().backward()
torch.save([y.detach(), leaf.grad, norm.running_mean, norm.running_var, forward, len(count)], f"{folder}/{rank}.pt")
store.set(f"done{rank}", "yes")
store.wait([f"done{1 - rank}"])  # connections close when a process ends
dist.destroy_process_group()
threads = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
if any("gloo" in thread for thread in threads):
    sys.exit(f"the process group outlives its destruction, and may abort the process as it ends: {threads}")
"""


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_processes_normalise_by_the_statistics_of_all_in_one_collective(offset, tmp_path: Path):
    """As one process normalises the whole batch; one collective forward and one backward."""
    torch.manual_seed(0)
    x, lengths, weights = torch.randn(4, 12, 3) + offset, torch.tensor([12, 7, 3, 9]), torch.randn(4, 12, 3)
    torch.save([x, lengths, weights], tmp_path / "batch.pt")
    command = [sys.executable, "-c", SHARED]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    norm, leaf = FrameNorm(3), x.clone().requires_grad_()
    y = norm(leaf, lengths)
    (y * weights).sum().backward()
    tolerance = 1e-5 if offset == 0 else 1e-3
    for index, expected in enumerate([y.detach(), leaf.grad]):
        together = torch.cat([part[index] for part in parts])
        torch.testing.assert_close(together, expected, atol=tolerance, rtol=tolerance)
    for part in parts:
        torch.testing.assert_close(part[2:4], [norm.running_mean, norm.running_var], atol=1e-5, rtol=1e-5)
        assert part[4:] == [1, 2]
