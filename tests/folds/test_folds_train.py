"""The training command end to end on a tiny competition: the runs folder it writes, and what it refuses."""

from __future__ import annotations

import gc
import json
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import metric_rows, metrics, run, run_folder, summary

import models
from folds import train
from folds.data.cache import load_dataset
from folds.data.speaker_folds import FOLD_ASSIGNMENT, speaker_folds
from folds.store.fold_model import find_fold_models
from folds.training import loop, preparation
from folds.training.device import autocast_dtype, resolve_precision
from folds.training.predict import greedy_distances
from folds.training.step import train_step
from registry import InputError, command
from registry.bounds import Bounds


def test_a_fold_model_predicts_its_own_fold_dev_and_test(undisturbed, tiny):
    (fold_model,) = find_fold_models(undisturbed.parents[1])
    dataset = load_dataset(tiny)
    held_out = np.flatnonzero(speaker_folds(dataset.train, 2) == 0)
    oof = fold_model.load("oof")
    assert oof.ids == tuple(dataset.train.ids[i] for i in held_out) and oof.alphabet_hash == dataset.alphabet.hash
    assert fold_model.load("dev").ids == dataset.dev.ids and fold_model.load("test").ids == dataset.test.ids
    assert oof.lengths.tolist() == (-(-dataset.train.lengths[held_out] // 2)).tolist() and fold_model.stride == 2
    expected = greedy_distances(oof, dataset.train, held_out).mean()
    assert greedy_distances(oof, dataset.train).mean() == expected
    assert summary(undisturbed)["greedy_distance"]["oof"] == pytest.approx(expected, abs=1e-4)
    rows = metric_rows(undisturbed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6] and rows[-1]["loss"] < rows[0]["loss"]
    assert fold_model.fold_assignment == fold_model.recorded["fold_assignment"] == FOLD_ASSIGNMENT


def test_the_weights_predict_what_is_stored(undisturbed, tiny):
    """`models.load` needs the run's folder alone: the description is in the header of the weights."""
    dataset = load_dataset(tiny)
    (fold_model,) = find_fold_models(undisturbed.parents[1])
    trained = models.load(undisturbed)
    assert (trained.name, trained.features, trained.stride) == ("lstm_small", dataset.features, fold_model.stride)
    assert (trained.phonemes, trained.characters) == (dataset.alphabet.phonemes, dataset.alphabet.characters)
    stored = fold_model.load("dev")
    for row, utterance in enumerate(dataset.dev.ids):
        log_probs = trained.predict(np.load(tiny / "dev-clean" / "mfcc" / f"{utterance}.npy"))
        np.testing.assert_allclose(log_probs, stored[row], atol=0.01)


def test_it_learns(tiny, tmp_path, monkeypatch):
    """Patterns this plain are learned: far below the 6 edits of an empty hypothesis."""
    run(monkeypatch, tiny, tmp_path, "--epochs", "60")
    assert max(summary(run_folder(tmp_path))["greedy_distance"].values()) < 1.5


def test_a_run_leaves_no_gpu_memory_in_use_for_the_next(tiny, tmp_path, monkeypatch):
    """Not even if its state is part of a reference cycle, as an optimizer may be; and nothing stays reserved."""
    calls: list[str] = []
    weights: list[weakref.ref[nn.Parameter]] = []

    class Cyclic(loop.State):
        def __init__(self, *arguments):
            calls.append(f"{sum(weight() is not None for weight in weights)} in use")
            super().__init__(*arguments)
            self.itself = self
            weights.append(weakref.ref(next(self.model.parameters())))

    monkeypatch.setattr(loop, "State", Cyclic)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    gc.disable()
    try:
        run(monkeypatch, tiny, tmp_path, "--fold", "all", "--epochs", "1")
    finally:
        gc.enable()
    assert calls == ["emptied", "0 in use", "emptied", "0 in use"]


def test_a_budget_of_minutes_is_kept_and_ends_at_rate_zero(tiny, tmp_path, monkeypatch):
    before = time.process_time()
    run(monkeypatch, tiny, tmp_path, "--minutes", "0.05", "--clock", "cpu", "--average", "0.1")
    assert 3.0 <= time.process_time() - before < 8.0
    rows = metric_rows(run_folder(tmp_path))
    assert len(rows) > 3 and rows[-1]["loss"] < rows[0]["loss"]


def test_the_best_epoch_may_predict_and_config_json_records_it(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--select", "best")
    (fold_model,) = find_fold_models(tmp_path)
    best = min(row["held_out"] for row in metric_rows(fold_model.path))
    assert fold_model.config.select == "best"
    assert summary(fold_model.path)["greedy_distance"]["oof"] == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("average", ["0", "0.3"])
def test_the_weights_of_the_first_best_epoch_survive_a_stop(average, tiny, tmp_path, monkeypatch):
    """They are those that were measured: with `--average`, the averages. The stop is in the third of four epochs."""
    measured, distances, steps, measure = [], iter([5.0, 3.0, 3.0, 4.0]), [], loop.predict

    def noting(model, *arguments, **options):
        measured.append({name: value.clone() for name, value in model.state_dict().items()})
        return measure(model, *arguments, **options)

    def stopping(own, task, parts, signals, budget):
        steps.append(1)
        if len(steps) == 10:  # epochs have four batches
            signals.caught = 15
        return train_step(own, task, parts, signals, budget)

    monkeypatch.setattr(loop, "predict", noting)
    monkeypatch.setattr(loop, "train_step", stopping)
    monkeypatch.setattr(loop, "greedy_distances", lambda log_probs, split, rows: np.full(len(rows), next(distances)))
    options = ["--epochs", "4", "--select", "best", "--average", average]
    assert run(monkeypatch, tiny, tmp_path, *options) == 143
    assert run(monkeypatch, tiny, tmp_path, *options, "--resume") == 0 and len(measured) == 4
    weights = load_file(run_folder(tmp_path) / "checkpoint" / "weights.safetensors")
    equal = [all(torch.equal(weights[name], value) for name, value in epoch.items()) for epoch in measured]
    assert equal == [False, True, False, False]


def test_several_models_folds_and_seeds(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--model", "lstm_small,gru_small", "--fold", "all", "--seed", "4")
    names = [(fold_model.name, fold_model.fold) for fold_model in find_fold_models(tmp_path)]
    assert names == [(f"{name}.seed4", fold) for name in ("gru_small", "lstm_small") for fold in (0, 1)]


def test_one_fold_fits_everything_and_is_a_member_of_its_own(tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--folds", "1")
    (fold_model,) = find_fold_models(tmp_path)
    dataset = load_dataset(tiny)
    assert (fold_model.name, fold_model.folds, fold_model.path.parent.name) == ("lstm_small.all", 1, "lstm_small.all")
    assert (len(fold_model.load("oof")), len(fold_model.load("dev"))) == (0, len(dataset.dev))
    assert f"{len(dataset.train)} utterances to fit, 0 held out" in capsys.readouterr().out
    # The distance reported during training is then that on dev.
    assert json.loads(metrics(fold_model.path))["held_out"] == pytest.approx(
        greedy_distances(fold_model.load("dev"), dataset.dev, np.arange(len(dataset.dev))).mean(), abs=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "1", "--select", "best"], "no utterances are held out to select by"),
        (["--model", "pbltsm"], "unknown model 'pbltsm'; did you mean pblstm"),
        (["--fold", "2"], "--fold 2: out of range, with --folds 2 it is 0 to 1"),
        (["--fold", "x"], "--fold x: expected a number"),
        (["--folds", "99"], "--folds 99: expected 1 to 6, the number of speakers"),
        (["--epochs", "0"], "--epochs 0: expected at least 1"),
        (["--device", "nonsense"], "--device nonsense: not available on this machine"),
        (["--device", "mps"], "--device mps: PyTorch has no CTC loss on MPS; use --device cpu"),
        (["--precision", "fp16"], "--precision fp16: not for training on cpu; use --precision auto, bf16 or fp32"),
        (["--batch-frames", "63"], "--batch-frames 63: too few for the longest utterance, "),
        (["--save-every", "-1"], "--save-every -1.0: expected 0 or more"),
        (["--with-dev"], "--with-dev with --folds 2: a final model has no folds; use --folds 1"),
        (["--epochs", "2", "--minutes", "1"], "--epochs 2 with --minutes 1: either decides how long a run is"),
        (["--folds", "1", "--with-dev", "--minutes", "1"], "--with-dev with --minutes: the length of training must be"),
        (["--folds", "1", "--with-dev", "--select", "best"], "--select best with --folds 1"),
        (["--data", "/no/such/folder"], "no folder /no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tiny, tmp_path, monkeypatch, capsys, options, message):
    base = ["train", "--data", str(tiny), "--runs", str(tmp_path / "runs"), "--folds", "2"]
    monkeypatch.setattr(sys, "argv", [*base, "--model", "lstm_small", *options])
    with pytest.raises(SystemExit) as exit:
        command(train.main)
    assert exit.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: ") and message in complaint
    assert len(complaint.strip().splitlines()) == 1 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--kernel", "4"], "--kernel 4: expected an odd number"),
        (["--layers", "0"], "--layers 0: expected at least 1"),
        (["--strides", "0", "2"], r"--strides \(0, 2\): expected at least 1"),
        (["--dropout", "1"], "--dropout 1.0: expected a"),
        (["--folds", "0"], "--folds 0: expected at least 1"),
    ],
)
def test_options_no_model_can_have_are_one_line(option, message, tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, *option)


def test_utterances_too_short_for_their_labels_are_listed(tiny, tmp_path, monkeypatch):
    short = ["--epochs", "1", "--strides", "4", "4"]
    with pytest.raises(InputError, match=r"training utterances have fewer output frames at stride 16 .*: 1-1-0000"):
        run(monkeypatch, tiny, tmp_path, *short, "--fold", "1")
    assert not (tmp_path / "lstm_small").exists()
    with pytest.raises(InputError, match="nothing is left to fit"):
        run(monkeypatch, tiny, tmp_path, *short, "--fold", "1", "--skip-bad")


def test_two_views_at_changed_speeds_train(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "3", "--consistency", "0.2", "--speed", "0.1")
    rows = metric_rows(run_folder(tmp_path))
    assert rows[2]["loss"] < rows[0]["loss"] and rows[2]["skipped"] == 0


def test_reduced_precision_trains(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--precision", "bf16")
    rows = metric_rows(run_folder(tmp_path))
    assert rows[1]["loss"] < rows[0]["loss"] and rows[1]["skipped"] == 0


def test_bf16_is_chosen_where_a_cpu_is_faster_in_it(monkeypatch, tmp_path):
    cpu, cpuinfo = torch.device("cpu"), tmp_path / "cpuinfo"
    monkeypatch.setattr("folds.training.device.CPUINFO", cpuinfo)
    intel, amd, bf16 = "GenuineIntel", "AuthenticAMD", torch.bfloat16
    cases = ((intel, True, True, bf16), (intel, False, True, None), (amd, False, True, bf16), (amd, False, False, None))
    for vendor, amx, avx512, dtype in cases:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n\nprocessor\t: 1\nvendor_id\t: {vendor}\n")
        capabilities = {"amx_bf16": amx, "avx512_bf16": avx512}
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities, raising=False
        )
        assert autocast_dtype(resolve_precision("auto", cpu, nn.LSTM(1, 1))) is dtype
    assert autocast_dtype("fp32") is None and autocast_dtype("fp16") is torch.float16
    assert resolve_precision("auto", torch.device("mps"), nn.LSTM(1, 1)) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_non_finite_loss_stops_the_run_and_names_utterances(precision, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "resolve_precision", lambda *given: precision)  # a CPU refuses fp16
    message = r"non-finite loss or gradient in 20 steps in a row, the last of them with \d-1-"
    monkeypatch.setattr(Bounds, "complaint", lambda *given: "")  # rates within bounds do not diverge at once
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tiny, tmp_path, "--epochs", "60", "--lr", "1e30", "--clip", "1e30")
    assert "NaN" not in metrics(run_folder(tmp_path))


def test_fp16_finds_its_scale(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "resolve_precision", lambda *given: "fp16")  # a CPU refuses it
    run(monkeypatch, tiny, tmp_path, "--epochs", "6")
    rows = metric_rows(run_folder(tmp_path))
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["skipped"] == 0


def test_without_the_prior_biases_start_at_random(tiny, tmp_path, monkeypatch):
    """The first epoch's loss shows it: with the prior, the model need not learn that most frames are blank."""
    losses = {}
    for name, options in (("with", []), ("without", ["--no-prior"])):
        run(monkeypatch, tiny, tmp_path / name, "--epochs", "1", "--lr", "1e-12", *options)
        losses[name] = metric_rows(run_folder(tmp_path / name))[0]["loss"]
    assert losses["with"] < losses["without"]


def test_a_model_without_an_intermediate_output_refuses_intermediate_ctc(tiny, tmp_path, monkeypatch):
    """Before anything is written, so that the same command without the option works."""

    def refuse(network: models.CTCNetwork, used: bool) -> None:
        models.CTCModel.use_intermediate(network, used)

    monkeypatch.setattr(models.CTCNetwork, "use_intermediate", refuse)
    with pytest.raises(InputError, match="no intermediate output layer"):
        run(monkeypatch, tiny, tmp_path, "--intermediate", "0.3")
    assert not Path(tmp_path / "lstm_small").exists()
