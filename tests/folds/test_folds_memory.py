"""Training that does not fit into memory: estimated before it starts, noticed when it runs out, and what is said."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_runs import metric_rows, run, run_folder, signal_in_step

from folds.data.augmentation import SpecAugment
from folds.data.cache import load_dataset
from folds.training import options as options_module
from folds.training import train_fold_model
from folds.training.distributed import ProcessGroup
from folds.training.memory import MemoryRanOut, estimated_bytes, free_memory
from folds.training.options import RecipeOptions, TrainingRecipe, TrainOptions
from folds.training.signals import Stopped
from models import CTCModel
from models.network import TrainingOutputs
from registry import InputError, model_config


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_batch_that_does_not_fit_names_a_smaller_one(error, tiny, tmp_path, monkeypatch):
    """The same command without the folder and with the frames it names then works."""

    def too_large(model, task):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(train_fold_model, "fit", too_large)
        message = "batches of 400 frames do not fit .* train with --batch-frames 200 --accumulate 2 --lr 0.01"
        with pytest.raises(InputError, match=message) as found:
            run(patch, tiny, tmp_path, "--epochs", "1")
    assert len(str(found.value).splitlines()) == 1 and f"delete {run_folder(tmp_path)}" in str(found.value)
    shutil.rmtree(run_folder(tmp_path))
    more = str(found.value).rpartition("train with ")[2].split()
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", *more)
    assert len(metric_rows(run_folder(tmp_path))) == 1


@pytest.fixture
def train_by_default(tiny, tmp_path, monkeypatch):
    """Train a small model on fold 0 with the default frames per batch, which are 800 here; returns its folder."""
    monkeypatch.setattr(options_module, "CPU_FRAMES", 800)
    recipe = RecipeOptions(epochs=2, augment=SpecAugment(speed=0, feature_mask=1))
    chosen = TrainOptions(data=tiny, runs=tmp_path, model="lstm_small", folds=2, threads=1, device="cpu", recipe=recipe)
    dataset = load_dataset(tiny)
    sizes = {"features": dataset.features, "classes": dataset.alphabet.classes}
    config = model_config("lstm_small", hidden=8, channels=(16, 16), strides=(2, 1), layers=1, **sizes)

    def train(**changes):
        options = replace(chosen, **changes)
        return train_fold_model.train_fold_model(options, dataset, "lstm_small", 0, config, ProcessGroup())

    return train


def test_a_default_that_does_not_fit_is_halved_once(train_by_default, monkeypatch, capsys):
    """Then two batches make a step; a resume finds the same, and a second failure ends the run."""
    fit, tasks = train_fold_model.fit, []

    def too_large_once(model, task):
        tasks.append(task)
        if len(tasks) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        fit(model, task)

    monkeypatch.setattr(train_fold_model, "fit", too_large_once)
    folder = train_by_default()
    assert [(task.recipe.batch_frames, task.recipe.accumulate) for task in tasks] == [(800, 1), (400, 2)]
    assert tasks[1].recipe.lr == tasks[0].recipe.lr and folder.finished
    assert "batches of 800 frames do not fit into the memory of " in capsys.readouterr().out
    assert train_by_default() == folder and len(tasks) == 2
    shutil.rmtree(folder.path)
    monkeypatch.setattr(train_fold_model, "fit", lambda model, task: too_large_once(model, tasks.clear()))
    with pytest.raises(InputError, match="batches of 400 frames .* --batch-frames 200 --accumulate 4 --lr 0.002"):
        train_by_default()


def test_a_default_that_exceeds_the_free_memory_is_halved_before_the_first_step(train_by_default, monkeypatch, capsys):
    """A resumed run keeps the size, whatever is free by then."""
    monkeypatch.setattr(train_fold_model, "free_memory", lambda device: 1e5)
    with monkeypatch.context() as patch:
        signal_in_step(patch, 3)
        with pytest.raises(Stopped):
            train_by_default()
    printed = capsys.readouterr().out
    assert "batches of 800 frames would probably not fit into the GPU's free memory: starting with half" in printed
    monkeypatch.setattr(train_fold_model, "free_memory", lambda device: 1e12)
    folder = train_by_default(resume=True)
    record = json.loads(folder.config.read_text())
    assert folder.finished and record["hardware"]["halved"] and record["hardware"]["frames_per_batch"] == 400
    assert record["options"]["recipe"]["accumulate"] == 2
    # So does one that was not halved.
    shutil.rmtree(folder.path)
    with monkeypatch.context() as patch:
        signal_in_step(patch, 3)
        with pytest.raises(Stopped):
            train_by_default()
    monkeypatch.setattr(train_fold_model, "free_memory", lambda device: 1e5)
    record = json.loads(train_by_default(resume=True).config.read_text())
    assert not record["hardware"]["halved"] and record["hardware"]["frames_per_batch"] == 800


def test_the_gpu_of_any_process_decides_on_the_size_of_all(train_by_default, monkeypatch):
    """The answer of the group counts, here that of a process without a GPU of its own that is too small."""
    asked = []
    monkeypatch.setattr(ProcessGroup, "any", lambda group, flag: asked.append(flag) or len(asked) == 2)
    record = json.loads(train_by_default().config.read_text())
    assert asked[:2] == [False, False] and record["hardware"]["halved"]


class Affine(CTCModel):
    """One linear layer."""

    stride, classes = 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def training_outputs(self, features, lengths):
        return TrainingOutputs(self.layer(features).float().log_softmax(2), lengths)


def test_the_estimate_is_what_the_parameters_and_the_kept_tensors_take():
    # For each frame, the layer keeps its 4 inputs and the softmax its 3 outputs; there are 15 parameters.
    recipe = TrainingRecipe(batch_frames=1000)
    assert estimated_bytes(Affine(), 4, recipe) == 1.25 * (15 * 16 + 1000 * (4 + 3) * 4)
    assert estimated_bytes(Affine(), 4, replace(recipe, average=0.1)) == 1.25 * (15 * 20 + 1000 * (4 + 3) * 4)
    assert estimated_bytes(Affine(), 4, replace(recipe, consistency=0.2)) == 1.25 * (15 * 16 + 2000 * (4 + 3) * 4)
    # In half precision the inputs are copied with 2 bytes each, and log-probabilities stay in float32.
    half = replace(recipe, precision="fp16")
    assert estimated_bytes(Affine(), 4, half) == 1.25 * (15 * 18 + 1000 * (4 * 2 + 3 * 4))
    assert free_memory(torch.device("cpu")) == math.inf


def test_memory_that_runs_out_late_keeps_the_run(tiny, tmp_path, monkeypatch):
    def later(model, task):
        task.folder.checkpoint(7).parent.mkdir(exist_ok=True)
        task.folder.checkpoint(7).touch()
        raise RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")

    monkeypatch.setattr(train_fold_model, "fit", later)
    with pytest.raises(MemoryRanOut, match=r"continue with the same command and --resume; if it"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1")


def test_other_errors_of_training_are_not_taken_for_a_full_memory(tiny, tmp_path, monkeypatch):
    def broken(model, task):
        raise RuntimeError("expected scalar type Float but found Half")

    monkeypatch.setattr(train_fold_model, "fit", broken)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "1")
