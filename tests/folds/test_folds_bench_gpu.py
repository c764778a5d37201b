"""The GPU benchmark, run on the CPU, and what it counts: operations, time steps, host syncs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import bench_gpu
from gpu_estimate import DEVICES, MEAN_FRAMES, UTTERANCES, arithmetic_hours, latency_hours, shape_only, speech_lengths
from gpu_peaks import peak
from host_syncs import CUDA_WARNING, HostSyncs, cuda_syncs
from operation_counts import forward_flops, layer_flops, recurrent_steps
from training_steps import TrainingStep, float32_arithmetic

from models import create_model
from registry import InputError

ROOT = Path(__file__).parents[2]
QUICK = ["--device", "cpu", "--models", "pblstm_small", "--frames", "2000", "--quick"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *map(str, arguments)])
    return bench_gpu.main()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table(printed: str) -> list[list[str]]:
    """The cells of each line of a Markdown table, without the line of dashes."""
    lines = [cells(line) for line in printed.splitlines() if line.startswith("|")]
    assert set(lines.pop(1)) == {"---"}
    return lines


def test_the_table_has_a_row_for_each_precision_and_a_figure_in_each_column(monkeypatch, capsys):
    assert run(monkeypatch, *QUICK) == 0
    printed = capsys.readouterr().out
    assert " (cpu), " in printed.splitlines()[0] and f"torch {torch.__version__}" in printed.splitlines()[0]
    header, *rows = table(printed)
    assert header == list(bench_gpu.COLUMNS)
    assert [row[:3] for row in rows] == [["pblstm_small", "2,000", precision] for precision in ("fp32", "bf16")]
    for row in rows:
        figures = dict(zip(header, row, strict=True))
        if figures["precision"] == "fp32" or figures["RNN alone, frames/s"] != "-":  # not every CPU has it in bf16
            speed, alone = (float(figures[name].replace(",", "")) for name in ("frames/s", "RNN alone, frames/s"))
            assert float(figures["of RNN alone"].removesuffix(" %")) == pytest.approx(100 * speed / alone, abs=0.6)
        assert figures["share of peak"] == "unknown" and figures["GPU memory, GB"] == "-"
        assert int(figures["host syncs per step"]) >= 0


def test_a_row_that_does_not_fit_into_memory_has_dashes(monkeypatch, capsys):
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(TrainingStep, "__call__", no_memory)
    assert run(monkeypatch, *QUICK, "--precisions", "fp32") == 0
    assert table(capsys.readouterr().out)[1:] == [["pblstm_small", "2,000", "fp32", *"------"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu", "--models", "las"], "model 'las': its operations cannot be counted"),
        (["--device", "cpu", "--precisions", "fp16"], "--precisions fp16: not on this device, which has fp32, bf16"),
        (["--device", "cpu", "--frames", "0"], "--frames .*: expected at least 1"),
        ([*QUICK, "--train", "0"], "--train 0.0: expected more than 0"),
        (["--batches", "3"], "Unrecognized options: --batches"),
        ([*QUICK, "--", "--precision", "fp16"], "pass --train MINUTES, too"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(monkeypatch, capsys, arguments, message):
    with pytest.raises(InputError, match=message):
        run(monkeypatch, *arguments)
    assert capsys.readouterr().out == ""


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(monkeypatch) == 0
    assert "no CUDA device" in capsys.readouterr().out


def test_training_prints_its_distances_and_speed(monkeypatch, capfd, tiny):
    small = ["--hidden", 8, "--channels", 8, 8, "--layers", 1, "--folds", 2, "--batch-frames", 400, "--threads", 1]
    training = ["--data", tiny, "--train", 0.02, "--train-model", "lstm_small", "--", *small]
    assert run(monkeypatch, *QUICK, "--precisions", "fp32", *training) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last.startswith("lstm_small, fold 0, 0.02 minutes: greedy distance oof ")
    assert ", dev " in last and "frames/s with everything the loop does" in last


def test_the_documented_estimate_is_the_one_that_is_printed():
    script = ROOT / "tests" / "benchmarks" / "bench_gpu.py"
    done = subprocess.run([sys.executable, script, "--estimate"], capture_output=True, text=True, check=True)
    documented = (ROOT / "docs" / "gpu_hours.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in done.stdout.splitlines() if line not in documented]
    assert not missing, "the models have changed: put the output of bench_gpu.py --estimate into docs/gpu_hours.md"


def test_the_estimate_follows_from_operations_and_steps():
    network, a100 = shape_only("lstm"), DEVICES[1]
    lengths = speech_lengths(UTTERANCES, MEAN_FRAMES)
    assert len(lengths) == 28_539 and lengths.mean() == pytest.approx(1269, abs=1)
    # 200 epochs, forward and backward, 30 % of 312 TFLOP/s.
    seconds = 200 * 3 * forward_flops(network, lengths) / (0.3 * 312e12)
    assert arithmetic_hours(network, lengths, a100) == pytest.approx(seconds / 3600)
    # Two batches per epoch, 4 layers at a quarter of the frame rate, 20 to 60 µs.
    steps = 200 * 4 * (250 + 300)
    assert latency_hours(network, [1000, 1200], a100) == pytest.approx((steps * 20e-6 / 3600, steps * 60e-6 / 3600))


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv1d(6, 4, 3, padding=1), nn.Conv1d(6, 6, 5, groups=6)])
def test_operations_of_linear_and_convolutional_layers_equal_those_of_the_flop_counter(layer):
    x = torch.randn(2, 9, 7) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 9)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    outputs = y.numel() // (5 if isinstance(layer, nn.Linear) else layer.out_channels)
    assert layer_flops(layer) * outputs == counter.get_total_flops()


def test_operations_of_recurrent_layers_are_those_of_their_gates():
    inputs, hidden = 6, 5
    product = 2 * hidden * (inputs + hidden)  # of one gate: hidden dot products with the input and with the state
    assert layer_flops(nn.LSTM(inputs, hidden)) == 4 * product
    assert layer_flops(nn.GRU(inputs, hidden)) == 3 * product
    assert layer_flops(nn.LSTM(inputs, hidden, bidirectional=True)) == 2 * 4 * product
    second = 2 * hidden * (2 * hidden + hidden)
    assert layer_flops(nn.GRU(inputs, hidden, num_layers=2, bidirectional=True)) == 2 * 3 * (product + second)
    assert layer_flops(nn.LayerNorm(hidden)) == 0


def test_operations_of_a_whole_conformer_equal_those_of_the_flop_counter():
    network = create_model("conformer_small", features=28, classes=41).eval()
    lengths = torch.tensor([200, 200])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.randn(2, 200, 28), lengths)
    intermediate_output = 2 * 50 * layer_flops(network.middle)
    assert forward_flops(network, lengths.numpy()) == counter.get_total_flops() - intermediate_output
    # An utterance twice as long: twice the operations, and four times those of attention.
    once, twice = (forward_flops(network, np.array([frames])) for frames in (400, 800))
    assert twice - 2 * once == 2 * 4 * 4 * 144 * 100**2


def test_time_steps_are_those_of_each_layer_at_its_frame_rate():
    assert recurrent_steps(shape_only("pblstm"), 1001) == 501 + 3 * 251
    assert recurrent_steps(shape_only("cnn_lstm"), 1001) == 3 * 334
    assert recurrent_steps(shape_only("conformer"), 1001) == 0


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA A100 80GB PCIe", "bf16", 312),
        ("NVIDIA L4", "fp16", 121),
        ("NVIDIA GeForce RTX 4090", "fp16", 165.2),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "fp32", 67),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "fp16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "fp16", None),
        ("NVIDIA L40S", "fp16", None),
    ],
)
def test_the_peak_is_found_by_the_whole_name(name, precision, teraflops):
    assert peak(name, precision) == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_host_syncs_are_counted():
    x = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    with HostSyncs() as syncs:
        kept = x[x > 0]  # a mask as an index, in the backward pass too
        rows = (x > 0).nonzero()
        loss = kept.sum() + len(rows)
        loss.backward()
        assert float(loss.detach()) == 5.0
    assert syncs.count == 4


def test_host_syncs_on_cuda_are_the_warnings_of_pytorch(monkeypatch):
    modes: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with cuda_syncs() as syncs:
        for _ in range(3):
            warnings.warn(f"{CUDA_WARNING} (CUDAFunctions.cpp)", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert syncs.count == 3 and modes == ["warn", 0]


def test_float32_arithmetic_is_restored():
    before = torch.backends.cudnn.allow_tf32
    with float32_arithmetic("fp32"):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    with float32_arithmetic("tf32"):
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_recurrent_models_are_not_measured_in_a_precision_that_training_refuses(monkeypatch):
    for capability, recurrent, other in (
        ((7, 5), ["fp32", "fp16"], ["fp32", "fp16"]),
        ((8, 0), ["fp32", "tf32", "fp16"], ["fp32", "tf32", "bf16", "fp16"]),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert bench_gpu.default_precisions("pblstm", torch.device("cuda")) == recurrent
        assert bench_gpu.default_precisions("conformer", torch.device("cuda")) == other
    assert bench_gpu.default_precisions("pblstm", torch.device("cpu")) == ["fp32", "bf16"]
