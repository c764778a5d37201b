"""Several processes, or several batches per step, train what one process with one batch trains."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import folds.train
import folds.training.distributed as distributed
import folds.training.rendezvous as rendezvous
from folds.data.cache import load_dataset
from folds.data.speaker_folds import speaker_folds
from folds.store.fold_model import find_fold_models
from folds.store.lease import hold
from folds.store.run_folder import SPLITS, RunFolder
from folds.training.distributed import joined_group
from folds.training.signals import SignalCatcher, Stopped
from registry import InputError
from registry.errors import MachineFault, is_out_of_memory

MODEL = ["--model", "lstm_small", "--hidden", "24", "--channels", "16", "16", "--strides", "2", "1", "--layers", "1"]
MODEL += ["--folds", "2", "--threads", "1", "--lr", "0.01", "--epochs", "3"]
# No random numbers, since each process draws its own. float32: sums over shares round differently in bf16.
PLAIN = ["--dropout", "0", "--time-mask", "0", "--feature-mask", "0", "--speed", "0", "--precision", "fp32"]
# Each process has other speakers in its share of a batch.
PLAIN += ["--group-layer", "speaker"]


def rows(runs: Path) -> list[dict]:
    return [json.loads(line) for line in (runs / "lstm_small" / "fold0" / "metrics.jsonl").read_text().splitlines()]


# The first of two processes ends while the second waits for it.
ENDS = """
import os
from folds.training.distributed import joined_group
from registry import command
def main():
    with joined_group("cpu") as group:
        group.wait()
        if group.first:
            os._exit(5)
        group.any(False)
command(main)
"""

# A process that takes longer between two collectives than the two may take to connect.
SLOW = """
import time
import torch
import folds.training.distributed as distributed
distributed.FIND_S = 4
with distributed.joined_group("cpu") as group:
    if group.first:
        time.sleep(5)
    loss, stop, seconds = group.step_totals(torch.tensor(1.0 + group.rank), not group.first, 1.5 + group.rank)
    assert (float(loss), stop, seconds) == (3.0, True, 1.5)
    assert group.any(group.first)
"""

# A process that ends in torchrun's first attempt, after all have met.
RESTARTED = """
import os
from folds.training.distributed import joined_group
with joined_group("cpu") as group:
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(3)
    assert group.any(group.first)
"""

# A process whose group has no thread left after training: such threads abort a process now and then as it ends.
TRAINS = """
import os, sys
import folds.train
status = folds.train.main()
names = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
sys.exit(f"threads are left: {names}" if any("gloo" in name for name in names) else status)
"""


def start_two(*arguments: str) -> list[tuple[int, str]]:
    """Run two processes of one group to their ends: the exit status of each, and what it printed on stderr."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def train(data: Path, runs: Path, *more: str, processes: int = 1) -> list[dict]:
    """Train in this process, or in two of one group, which torchrun need not start; the rows of metrics.jsonl."""
    arguments = ["--data", str(data), "--runs", str(runs), *MODEL, *more]
    if processes == 1:
        assert folds.train.main(arguments) == 0
    else:
        ends = start_two("-c", TRAINS, *arguments)
        assert [status for status, _ in ends] == [0, 0] and not any("Warning" in error for _, error in ends), ends
    return rows(runs)


def torchrun(*arguments: str) -> None:
    """Start two processes by torchrun, which must end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", free_port(), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def train_by_torchrun(data: Path, runs: Path, *more: str) -> list[dict]:
    """As `train` in two processes that torchrun starts."""
    torchrun("-m", "folds.train", "--data", str(data), "--runs", str(runs), *MODEL, *more)
    return rows(runs)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp("alone"), *PLAIN, "--batch-frames", "400")


def test_two_processes_have_the_loss_curve_of_one(alone, tiny, tmp_path):
    together = train_by_torchrun(tiny, tmp_path, *PLAIN, "--batch-frames", "400")
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-3)
    assert len(find_fold_models(tmp_path)) == 1


def test_two_resumed_processes_draw_what_each_would_have_drawn(tiny, tmp_path):
    random = ["--dropout", "0.3", "--time-mask", "4", "--feature-mask", "1", "--batch-frames", "400"]
    whole = train(tiny, tmp_path, *random, processes=2)
    run = RunFolder(tmp_path / "lstm_small" / "fold0")
    timing = json.loads(run.timing.read_text().splitlines()[0])
    split = load_dataset(tiny).train
    frames = split.lengths[speaker_folds(split, 2) != 0].sum()
    assert timing["wall_s"] * timing["frames_per_s"] == pytest.approx(frames, rel=0.1)  # of both, by the first one's
    run.checkpoints[-1].unlink()
    for split in SPLITS:
        run.predictions(split).unlink()
    assert train(tiny, tmp_path, *random, "--resume", processes=2) == whole


def test_accumulated_batches_make_one_step(alone, tiny, tmp_path):
    """Losses differ a little from those of whole batches: each batch is normalised by itself."""
    halves = train(tiny, tmp_path, *PLAIN, "--batch-frames", "200", "--accumulate", "2")
    assert [row["step"] for row in halves] == [row["step"] for row in alone]
    assert [row["loss"] for row in halves] == pytest.approx([row["loss"] for row in alone], rel=0.1)


def test_accumulated_batches_of_two_processes_make_the_step_of_one(tiny, tmp_path):
    """Gradients are averaged over processes once per step; the labels of a step are those of all its batches."""
    halves = ["--batch-frames", "200", "--accumulate", "2"]
    together = train(tiny, tmp_path / "together", *PLAIN, *halves, processes=2)
    alone = train(tiny, tmp_path / "alone", *PLAIN, *halves)
    assert [row["step"] for row in together] == [row["step"] for row in alone]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-3)


def test_a_run_that_another_process_trains_is_refused_in_all_processes(tiny, tmp_path):
    folder = tmp_path / "lstm_small" / "fold0"
    with hold(folder, "lstm_small fold 0"):
        arguments = ["-m", "folds.train", "--data", str(tiny), "--runs", str(tmp_path), *MODEL, "--fold", "0"]
        (first, refused), (second, told) = start_two(*arguments)
    assert (first, second) == (2, 2)
    assert refused.startswith(f"error: {folder}: lstm_small fold 0 is being worked on by process {os.getpid()} on ")
    assert told == f"error: {folder}: the first process could not start this run\n" and refused.count("\n") == 1


def test_a_process_whose_group_has_lost_another_ends_with_one_line():
    (first, _), (second, error) = start_two("-c", ENDS)
    assert (first, second) == (5, 2)
    assert error == "error: another process of this training has ended: see its own error message\n"


def test_a_process_that_was_not_started_by_torchrun_ends_with_one_line(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    message = r"cannot reach each other .*MASTER_ADDR.*start them with torchrun"
    with pytest.raises(InputError, match=message), joined_group("cpu"):
        pass


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ("0", r"1 of 2 arrived at MASTER_ADDR=127.0.0.1, MASTER_PORT=\d+ within 0.025 minutes\): WORLD_SIZE must be"),
        ("1", r"no answer at MASTER_ADDR=127.0.0.1, MASTER_PORT=\d+ within .*refused\): MASTER_ADDR must be the"),
        ("2", r"variable RANK is '2': expected a whole number, 0 to 1"),
    ],
)
def test_a_process_that_finds_no_other_gives_up_in_time(rank, message, monkeypatch):
    variables = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**variables, "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous, "FIND_S", 1.5)
    with pytest.raises(InputError, match=message), joined_group("cpu"):
        pass


def test_a_port_of_another_program_is_reported_in_time(monkeypatch):
    """The program may accept the connection and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        variables = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**variables, "MASTER_PORT": str(other.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(rendezvous, "FIND_S", 1.5)
        with pytest.raises(MachineFault, match="no store of PyTorch answers within"), joined_group("cpu"):
            pass


def test_a_collective_may_take_longer_than_finding_each_other():
    """Losses are added up over the processes, and the first one's time counts."""
    assert start_two("-c", SLOW) == [(0, ""), (0, "")]


def test_processes_that_torchrun_restarts_do_not_look_for_those_that_ended(tmp_path):
    script = tmp_path / "restarted.py"
    script.write_text(RESTARTED)
    torchrun("--max-restarts", "1", str(script))


@pytest.fixture
def as_two_gpus(monkeypatch):
    """This process as the first of two under torchrun, each with a GPU; returns what it does to its process group."""
    calls: list[str] = []
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: calls.append(f"GPU {index}"))
    monkeypatch.setattr(distributed, "_connect", lambda backend, group: calls.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroyed"))
    monkeypatch.setattr(atexit, "register", lambda function: calls.append(function.__name__))
    return calls


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (None, "destroyed"),
        (Stopped(15), "destroyed"),
        (InputError("the disk is full"), "_exit_at_once"),
        (RuntimeError("CUDA error: device-side assert"), "_exit_at_once"),
        (dist.DistBackendError("NCCL error in: x.cpp:1, unhandled system error"), "_exit_at_once"),
    ],
)
def test_after_an_error_on_a_gpu_the_group_is_not_destroyed(error, last, as_two_gpus):
    """That would wait for collectives in which the other processes wait for this one."""
    with contextlib.suppress(InputError, Stopped, RuntimeError), joined_group("cuda"):
        if error is not None:
            raise error
    assert as_two_gpus == ["GPU 0", "cpu:gloo,cuda:nccl", last]


def test_a_failure_of_nccl_is_one_of_the_machine(as_two_gpus):
    """Not a bug of ours; and memory that it lacks is memory that a smaller batch leaves."""
    failure = dist.DistBackendError("NCCL error in: x.cpp:1\nCuda failure 2 'out of memory'")
    assert is_out_of_memory(failure)
    message = "cannot communicate .*NCCL error in: x.cpp:1 Cuda failure 2 .*NCCL_DEBUG=INFO"
    with pytest.raises(MachineFault, match=message), joined_group("cuda"):
        raise failure


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda:1", 2, "each process of torchrun uses its own GPU: pass --device cuda"),
        ("cuda", 1, "2 processes, but 1 GPU on this machine: start torchrun with --nproc-per-node 1 at most"),
        ("cuda", 0, "2 processes, but 0 GPUs on this machine: start torchrun with --device cpu"),
    ],
)
def test_gpus_that_processes_cannot_have_are_refused(device, count, message, as_two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError, match=f"^--device {device}: {message}$"), joined_group(device):
        pass
    assert as_two_gpus == []


def test_a_signal_that_torchrun_sends_again_does_not_end_the_process():
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    try:
        for several, second in ((True, []), (False, [signal.SIGTERM])):
            with SignalCatcher(several) as signals:
                for _ in range(2):
                    signal.raise_signal(signal.SIGTERM)
                assert signals.caught == signal.SIGTERM and reached == second
    finally:
        signal.signal(signal.SIGTERM, before)
