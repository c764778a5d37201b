"""What the device decides: precision, frames per batch, learning rate; and what config.json records of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import metrics, run, run_folder, summary

from folds.data.cache import load_dataset
from folds.store.run_folder import RunFolder
from folds.training import device as device_module
from folds.training.device import inference_dtype, pick_device, resolve_precision
from folds.training.distributed import ProcessGroup
from folds.training.options import RecipeOptions, TrainingRecipe, TrainOptions
from folds.training.preparation import resolve_options
from folds.training.run_config import describe_hardware
from folds.training.task import TrainingTask, describe_run
from folds.training.threads import CPUThreads
from models import create_model
from registry import InputError, list_models

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECURRENT, OTHER = nn.Sequential(nn.GRU(2, 2)), nn.Sequential(nn.Linear(2, 2))


def test_auto_is_the_precision_that_is_right_on_each_device(monkeypatch):
    for capability, other in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert resolve_precision("auto", CUDA, RECURRENT) == "fp16"
        assert resolve_precision("auto", CUDA, OTHER) == other
    for model in (RECURRENT, OTHER):
        assert resolve_precision("fp32", CUDA, model) == "fp32" and resolve_precision("fp16", CUDA, model) == "fp16"
        for fast, expected in ((True, "bf16"), (False, "fp32")):
            monkeypatch.setattr(device_module, "has_fast_bf16", lambda fast=fast: fast)
            assert resolve_precision("auto", CPU, model) == expected
        assert resolve_precision("bf16", CPU, model) == "bf16"
    assert resolve_precision("bf16", CUDA, OTHER) == "bf16"


def test_registered_models_are_recurrent_or_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    found = {
        name: resolve_precision("auto", CUDA, create_model(name, features=5, classes=5))
        for name in list_models("*_small")
    }
    assert found["conformer_small"] == "bf16"
    for name in ("gru_small", "lstm_small", "pblstm_small", "cnn_lstm_small", "las_small"):
        assert found[name] == "fp16"


def test_bf16_for_recurrent_models_on_cuda_is_refused_with_the_reason():
    with pytest.raises(InputError, match="cuDNN computes LSTM and GRU layers in fp16 under bf16 autocast.*become zero"):
        resolve_precision("bf16", CUDA, RECURRENT)


def test_a_guide_runs_in_the_precision_of_training_except_recurrent_ones_in_bf16_on_cuda():
    for precision, device, guide, dtype in (
        ("bf16", CUDA, RECURRENT, torch.float16),
        ("bf16", CUDA, OTHER, torch.bfloat16),
        ("bf16", CPU, RECURRENT, torch.bfloat16),
        ("fp16", CUDA, OTHER, torch.float16),
        ("fp32", CUDA, RECURRENT, None),
    ):
        assert inference_dtype(precision, device, guide) is dtype


def test_mps_is_never_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto", ProcessGroup()) == CPU
    with pytest.raises(InputError, match="no CTC loss on MPS"):
        pick_device("mps:0", ProcessGroup())


@pytest.mark.parametrize("name", ["meta", "cuda:99", "xpu", "nonsense", ""])
def test_devices_that_compute_nothing_here_are_refused(name):
    with pytest.raises(InputError, match=f"--device {name}: not available on this machine"):
        pick_device(name, ProcessGroup())


@pytest.mark.parametrize(
    ("options", "device", "processes", "frames", "lr"),
    [
        (RecipeOptions(), "cpu", 1, 16_000, 2e-3),
        (RecipeOptions(), "cpu", 4, 16_000, 2e-3),
        (RecipeOptions(), "cuda", 1, 64_000, 4e-3),
        (RecipeOptions(), "cuda", 4, 64_000, 8e-3),
        (RecipeOptions(lr=1e-3), "cuda", 4, 64_000, 1e-3),
        (RecipeOptions(batch_frames=8000), "cuda", 4, 8000, 2e-3),
        (RecipeOptions(batch_frames=8000, lr=1e-3), "cpu", 1, 8000, 1e-3),
    ],
)
def test_frames_and_learning_rate_follow_the_device(options, device, processes, frames, lr):
    sized = options.sized_for(device, processes)
    assert sized.batch_frames == frames and sized.lr == pytest.approx(lr, rel=1e-12)
    assert replace(sized, batch_frames=options.batch_frames, lr=options.lr) == options
    recipe = TrainingRecipe.of(sized, "fp16")
    assert (recipe.batch_frames, recipe.lr, recipe.precision) == (sized.batch_frames, sized.lr, "fp16")
    assert recipe.frames_of_all(device, processes) == frames * (processes if device == "cuda" else 1)


def a_task(tiny, tmp_path, device: torch.device, group: ProcessGroup, recipe: TrainingRecipe) -> TrainingTask:
    dataset = load_dataset(tiny)
    rows = np.arange(len(dataset.train))
    return TrainingTask(dataset, rows[8:], rows[:8], recipe, 0, device, RunFolder(tmp_path), group)


def test_batches_hold_as_many_frames_per_process_on_cuda(tiny, tmp_path):
    group, recipe = ProcessGroup(0, 4, 0), TrainingRecipe(batch_frames=128)
    on_cpu, on_cuda = (a_task(tiny, tmp_path, device, group, recipe) for device in (CPU, CUDA))
    alone = a_task(tiny, tmp_path, CPU, ProcessGroup(), replace(recipe, batch_frames=512))
    assert [batch.tolist() for batch in on_cuda.batches(1)] == [batch.tolist() for batch in alone.batches(1)]
    assert (on_cpu.frames_per_batch, on_cuda.frames_per_batch) == (128, 512)
    assert len(on_cpu.batches(1)) > len(on_cuda.batches(1))


def test_more_utterances_are_watched_on_cuda(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("folds.training.task.WATCHED_UTTERANCES", {"cpu": 2, "cuda": 4})
    for device, select, count in ((CPU, "last", 2), (CUDA, "last", 4), (CPU, "best", 8)):
        split, rows = a_task(tiny, tmp_path, device, ProcessGroup(), TrainingRecipe(select=select)).watched
        assert split.name == "train" and len(rows) == count


def test_cuda_computes_float32_in_tf32(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    model = create_model("lstm_small", features=5, classes=5)
    options, recipe = resolve_options(TrainOptions(), CPU, ProcessGroup(), model, False)
    assert asked == [] and options.recipe.batch_frames == recipe.batch_frames == 16_000
    options, recipe = resolve_options(TrainOptions(), CUDA, ProcessGroup(), model, False)
    assert asked == ["high"] and (recipe.batch_frames, recipe.precision) == (64_000, "fp16")
    assert options.recipe.precision == "auto"  # config.json records the options as they were given


def test_the_record_has_what_it_was_computed_on(undisturbed):
    config = json.loads((undisturbed / "config.json").read_text())
    hardware = config["hardware"]
    assert hardware["precision"] == resolve_precision("auto", CPU, RECURRENT) and hardware["device"] == "cpu"
    assert (hardware["world_size"], hardware["threads"], hardware["frames_per_batch"]) == (1, 1, 400)
    assert hardware["device_name"] and config["with_dev"] is False
    assert config["options"]["recipe"]["precision"] == "auto" and config["options"]["recipe"]["lr"] == 0.01
    written = summary(undisturbed)
    rows = [json.loads(line) for line in (undisturbed / "timing.jsonl").read_text().splitlines()]
    assert written["wall_minutes"] == pytest.approx(sum(row["wall_s"] for row in rows) / 60, abs=0.01)
    speeds = [row["frames_per_s"] for row in rows]
    assert min(speeds) - 1 <= written["frames_per_s"] <= max(speeds) + 1


def test_the_start_line_says_what_is_trained(undisturbed, tiny, tmp_path):
    config = json.loads((undisturbed / "config.json").read_text())
    task = a_task(tiny, tmp_path, CPU, ProcessGroup(), TrainingRecipe(batch_frames=400, lr=0.01))
    labels = task.dataset.train.tokens.lengths[:8].mean()
    line = describe_run(task, config)
    for part in (
        f"{tiny}, {config['hardware']['device_name']} (cpu), fp32, 1 CPU thread, {config['parameters']:,} parameters",
        "400 frames per batch, learning rate 0.01",
        f"mean reference length {labels:.1f} (the distance of empty predictions)",
    ):
        assert part in line


def unfinished(undisturbed, tmp_path):
    """A copy of a run that has yet to write its predictions of test, and its config.json."""
    shutil.copytree(undisturbed, run_folder(tmp_path))
    (run_folder(tmp_path) / "test.safetensors").unlink()
    path = run_folder(tmp_path) / "config.json"
    return path, json.loads(path.read_text())


def test_a_resume_in_another_precision_is_refused(undisturbed, tiny, tmp_path, monkeypatch):
    path, config = unfinished(undisturbed, tmp_path)
    other = "bf16" if config["hardware"]["precision"] == "fp32" else "fp32"
    before = config["hardware"]["precision"]
    path.write_text(json.dumps(config | {"hardware": config["hardware"] | {"precision": other}}))
    message = f"started in {other}, and --precision auto is {before} here: pass --precision {other}"
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    # As the message says; and auto and what it stands for are the same.
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume", "--precision", other)


def test_the_remedy_for_an_fp16_run_on_a_cpu_is_not_fp16(undisturbed, tiny, tmp_path, monkeypatch):
    path, config = unfinished(undisturbed, tmp_path)
    path.write_text(json.dumps(config | {"hardware": config["hardware"] | {"precision": "fp16"}}))
    with pytest.raises(InputError, match="started in fp16, .* here: continue it on the same kind of device, or"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")


def test_float32_in_tf32_is_another_precision(undisturbed, tiny, tmp_path, monkeypatch):
    path, config = unfinished(undisturbed, tmp_path)
    recipe = config["options"]["recipe"] | {"precision": "fp32"}
    options, hardware = config["options"] | {"recipe": recipe}, config["hardware"] | {"precision": "fp32"}
    path.write_text(json.dumps(config | {"options": options, "hardware": hardware | {"tf32": True}}))
    with pytest.raises(InputError, match="matrix products in TF32, which are in full float32 here: continue it on the"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume", "--precision", "fp32")
    path.write_text(json.dumps(config | {"options": options, "hardware": hardware | {"tf32": False}}))
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume", "--precision", "fp32")


def test_tf32_is_recorded_for_float32_on_gpus_that_have_it(tiny, monkeypatch):
    threads = CPUThreads.of_run(TrainOptions(threads=1), 1, CPU, ProcessGroup())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    for capability, precision, expected in (((8, 0), "fp32", True), ((8, 6), "fp16", False), ((7, 5), "fp32", False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        hardware = describe_hardware(TrainingRecipe(precision=precision), CUDA, ProcessGroup(), threads)
        assert hardware["tf32"] is expected
    assert describe_hardware(TrainingRecipe(), CPU, ProcessGroup(), threads)["tf32"] is False


def test_runs_that_do_not_record_their_precision_can_be_resumed(undisturbed, tiny, tmp_path, monkeypatch):
    path, config = unfinished(undisturbed, tmp_path)
    del config["hardware"], config["with_dev"], config["options"]["with_dev"], config["options"]["save_every"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="started with different settings .precision was auto, now fp32"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume", "--precision", "fp32")
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
    assert metrics(run_folder(tmp_path)) == metrics(undisturbed)


def test_a_resume_in_fewer_processes_is_refused_before_the_settings_that_follow_from_it(
    undisturbed, tiny, tmp_path, monkeypatch
):
    path, config = unfinished(undisturbed, tmp_path)
    hardware = config["hardware"] | {"frames_per_batch": 800, "world_size": 2}
    recipe = config["options"]["recipe"] | {"lr": 0.005}
    path.write_text(json.dumps(config | {"hardware": hardware, "options": config["options"] | {"recipe": recipe}}))
    message = "started in 2 processes with 800 frames .* now 1 with 400: use torchrun --nproc-per-node 2"
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")


def test_a_resume_with_other_frames_over_all_processes_is_refused(undisturbed, tiny, tmp_path, monkeypatch):
    path, config = unfinished(undisturbed, tmp_path)
    path.write_text(json.dumps(config | {"hardware": config["hardware"] | {"frames_per_batch": 1600}}))
    with pytest.raises(InputError, match="started with 1600 frames per batch over all processes, now 400"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--resume")
