"""Warm restarts: a run that starts from the final weights of the same run in another runs folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import metrics, run, run_folder, signal_in_step, summary

from folds.store.fold_model import find_fold_models
from folds.store.log_probs import read_log_probs
from folds.store.run_folder import RunFolder
from folds.training import loop
from folds.training.state import State
from registry import InputError
from registry.json_files import read_json, write_json


@pytest.fixture(scope="module")
def restarted(undisturbed, tiny, tmp_path_factory):
    """A warm restart of two epochs that was never stopped, and the weights it started with."""
    runs, initial = tmp_path_factory.mktemp("restarted"), []

    class Watched(State):
        def __init__(self, model, *more):
            initial.append({name: value.clone() for name, value in model.state_dict().items()})
            super().__init__(model, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "State", Watched)
        run(patch, tiny, runs, "--epochs", "2", "--restart-from", str(undisturbed.parents[1]))
    return run_folder(runs), initial[0]


def test_a_restart_begins_from_the_weights_of_the_run_before(undisturbed, restarted):
    """To the last bit; its minutes are those of both runs."""
    folder, initial = restarted
    before = load_file(undisturbed / "checkpoint" / "weights.safetensors")
    assert before.keys() == initial.keys() and all(torch.equal(initial[name], before[name]) for name in before)
    minutes = [summary(path)["cpu_minutes"] for path in (undisturbed, folder)]
    assert minutes[1] >= minutes[0] and len(metrics(folder).splitlines()) == 2


def test_a_restart_reports_its_source(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--restart-from", str(undisturbed.parents[1]))
    assert f"lstm_small fold 0: warm restart from {undisturbed}\n" in capsys.readouterr().out


def test_a_refit_continues_a_fold_model_where_there_is_no_other(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    """In the same runs folder or another; once there is a refit, that one is the source."""
    shutil.copytree(undisturbed, run_folder(tmp_path))
    shutil.copytree(undisturbed, tmp_path / "lstm_small" / "fold1")
    write_json(run_folder(tmp_path) / "summary.json", summary(undisturbed) | {"cpu_minutes": 7.5})
    options = ["--folds", "1", "--epochs", "1", "--restart-from", str(tmp_path)]
    run(monkeypatch, tiny, tmp_path, *options)
    run(monkeypatch, tiny, tmp_path / "more", *options)
    sources = [line.split(" from ")[1] for line in capsys.readouterr().out.splitlines() if "warm restart" in line]
    assert sources == [str(run_folder(tmp_path)), str(tmp_path / "lstm_small.all" / "fold0")]
    (first, _, refit) = find_fold_models(tmp_path)
    (again,) = find_fold_models(tmp_path / "more")
    assert refit.config.restart.weights == first.folder.weights_hash
    assert again.config.restart.weights == refit.folder.weights_hash != first.folder.weights_hash
    minutes = [summary(fold_model.path)["cpu_minutes"] for fold_model in (refit, again)]
    assert 7.5 <= minutes[0] <= minutes[1] < 9  # of training, with that of the weights it started from


def test_a_run_of_another_name_starts_from_a_run_that_is_given(undisturbed, tiny, tmp_path, monkeypatch, capsys):
    options = ["--epochs", "1", "--restart-from", str(undisturbed)]
    run(monkeypatch, tiny, tmp_path, *options, "--name", "again")
    run(monkeypatch, tiny, tmp_path, *options, "--name", "student", "--folds", "1")
    assert capsys.readouterr().out.count(f"warm restart from {undisturbed}\n") == 2
    hashes = {fold_model.config.restart.weights for fold_model in find_fold_models(tmp_path)}
    assert len(find_fold_models(tmp_path)) == 2 and hashes == {RunFolder(undisturbed).weights_hash}
    with pytest.raises(InputError, match="is fold 0 of 2, but fold 1 of 2 is to be trained"):
        run(monkeypatch, tiny, tmp_path, *options, "--name", "all", "--fold", "all")
    assert len(find_fold_models(tmp_path)) == 2
    final = tmp_path / "final"
    shutil.copytree(undisturbed, final)
    config = read_json(final / "config.json", dict, "")
    write_json(final / "config.json", config | {"with_dev": True})
    with pytest.raises(InputError, match="was trained on dev too: use it with --with-dev"):
        run(monkeypatch, tiny, tmp_path, "--name", "other", "--epochs", "1", "--restart-from", str(final))


def test_a_restart_that_was_stopped_resumes_without_its_source(restarted, undisturbed, tiny, tmp_path, monkeypatch):
    folder, source = run_folder(tmp_path / "new"), tmp_path / "source"
    shutil.copytree(undisturbed.parents[1], source)
    steps = signal_in_step(monkeypatch, 6)  # in the second epoch of four batches
    run(monkeypatch, tiny, tmp_path / "new", "--epochs", "2", "--restart-from", str(source))
    shutil.rmtree(source)
    with pytest.raises(InputError, match="started with different settings .restart_from was given, now not given"):
        run(monkeypatch, tiny, tmp_path / "new", "--epochs", "2", "--resume")
    run(monkeypatch, tiny, tmp_path / "new", "--epochs", "2", "--resume", "--restart-from", "moved")
    assert len(steps) == 8 and metrics(folder) == metrics(restarted[0])
    one, other = (read_log_probs(path / "test.safetensors").values for path in (folder, restarted[0]))
    assert np.array_equal(one, other)


def test_a_restart_without_an_intact_checkpoint_does_not_start_at_random(restarted, tiny, tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    shutil.copytree(restarted[0], folder)
    (folder / "test.safetensors").unlink()
    for path in folder.glob("checkpoint/step*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="no intact checkpoint is left"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "2", "--resume", "--restart-from", "gone")


def test_a_restart_from_selected_weights_records_it(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path / "best", "--epochs", "2", "--select", "best")
    run(monkeypatch, tiny, tmp_path / "new", "--epochs", "1", "--restart-from", str(tmp_path / "best"))
    (fold_model,) = find_fold_models(tmp_path / "new")
    assert fold_model.config.select == "best"


def test_a_restart_requires_the_same_model_finished_elsewhere(undisturbed, tiny, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(undisturbed.parents[1], source)
    shutil.copytree(undisturbed, source / "lstm_small" / "fold1")  # under a false name
    shutil.copytree(undisturbed, source / "lstm_small.seed1" / "fold0")
    (source / "lstm_small.seed1" / "fold0" / "checkpoint" / "weights.safetensors").write_bytes(b"torn")
    shutil.copytree(undisturbed, source / "lstm_small.seed2" / "fold0")
    (source / "lstm_small.seed2" / "fold0" / "summary.json").unlink()
    for options, message in (
        (["--fold", "all", "--seed", "1"], "lstm_small.seed1/fold1 is not a finished run with checkpoint/weights"),
        (["--dropout", "0.5"], r"trained with different model options \(dropout [\d.]+, not 0.5\): use the same"),
        (["--restart-from", str(undisturbed), "--model", "gru_small"], "trained with a model other than gru_small"),
        (["--folds", "3"], "held out different utterances"),
        (["--fold", "1"], "held out different utterances"),
        (["--seed", "1"], "cannot be read"),
        (["--seed", "2"], "summary.json: no such file"),
        (["--restart-from", str(tmp_path / "nowhere")], "nowhere: no such folder: pass a runs folder"),
    ):
        with pytest.raises(InputError, match=message):
            run(monkeypatch, tiny, tmp_path / "new", "--restart-from", str(source), *options)
    assert not (tmp_path / "new").exists()
