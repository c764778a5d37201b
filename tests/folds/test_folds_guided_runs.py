"""Runs that are trained with a guide (guided CTC): what they learn, record and resume with, and guides they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_folds_parallel import PLAIN, train
from training_runs import metrics, run, run_folder, signal_in_step

from folds.store.fold_model import find_fold_models
from folds.store.log_probs import read_log_probs
from folds.store.run_folder import RunFolder
from folds.training.options import RecipeOptions, TrainOptions
from registry import InputError


@pytest.fixture(scope="module")
def member(tiny, tmp_path_factory) -> Path:
    """The folder of the guide's member, with fold 0 of 2, trained long enough that it spikes."""
    runs = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, runs, "--epochs", "40")
    return run_folder(runs).parent


@pytest.fixture(scope="module")
def guided(member, tiny, tmp_path_factory) -> Path:
    """The run folder of six epochs of another seed that were trained with the guide."""
    runs = tmp_path_factory.mktemp("guided")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, runs, "--epochs", "6", "--seed", "1", "--guide", str(member))
    return seed_1(runs)


def seed_1(runs: Path) -> Path:
    return runs / "lstm_small.seed1" / "fold0"


def agreement(folder: Path, guide: Path) -> float:
    """Mean posterior out of fold at the guide's spikes."""
    one, other = (read_log_probs(path / "oof.safetensors").values.astype(np.float32) for path in (folder, guide))
    spikes = other.argmax(axis=1)
    frames = np.flatnonzero(spikes)
    return float(np.exp(one[frames, spikes[frames]]).mean())


def test_a_guided_model_spikes_where_its_guide_does(member, tiny, tmp_path, monkeypatch):
    options = ["--epochs", "40", "--seed", "1"]
    run(monkeypatch, tiny, tmp_path / "alone", *options)
    run(monkeypatch, tiny, tmp_path / "guided", *options, "--guide", str(member))
    alone, guided = (agreement(seed_1(tmp_path / name), member / "fold0") for name in ("alone", "guided"))
    assert guided > alone + 0.1


def test_weight_0_changes_nothing(undisturbed, member, tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--guide", str(member), "--guide-weight", "0")
    assert metrics(run_folder(tmp_path)) == metrics(undisturbed)
    one, other = (read_log_probs(path / "test.safetensors").values for path in (run_folder(tmp_path), undisturbed))
    assert np.array_equal(one, other)


def test_the_guide_is_recorded(guided, member):
    (fold_model,) = find_fold_models(guided.parents[1])
    weights = RunFolder(member / "fold0").weights_hash
    expected = {"from": str(member), "model": "lstm_small", "weights": weights, "select": "last", "tags": []}
    assert fold_model.recorded["guide"] == expected and fold_model.recorded["select"] == "last"


def test_a_stopped_run_resumes_with_its_guide_alone(guided, member, tiny, tmp_path, monkeypatch, capsys):
    """Which may have moved."""
    options, moved = ["--epochs", "6", "--seed", "1"], tmp_path / "moved"
    steps = signal_in_step(monkeypatch, 6)  # in the second epoch of four batches
    run(monkeypatch, tiny, tmp_path, *options, "--guide", str(member))
    assert f"lstm_small.seed1 fold 0: guided by {member}\n" in capsys.readouterr().out
    shutil.copytree(member, moved)
    with pytest.raises(InputError, match=r"started with different settings .guide was with weights \w{16}, now not"):
        run(monkeypatch, tiny, tmp_path, *options, "--resume")
    with pytest.raises(InputError, match=r"guide was with weights \w{16}, now with weights \w{16}\)"):
        run(monkeypatch, tiny, tmp_path, *options, "--resume", "--guide", str(guided))
    with pytest.raises(InputError, match=r"guide_weight was 1.0, now 0.5"):
        run(monkeypatch, tiny, tmp_path, *options, "--resume", "--guide", str(moved), "--guide-weight", "0.5")
    run(monkeypatch, tiny, tmp_path, *options, "--resume", "--guide", str(moved))
    assert len(steps) == 24 and metrics(seed_1(tmp_path)) == metrics(guided)
    one, other = (read_log_probs(path / "test.safetensors").values for path in (seed_1(tmp_path), guided))
    assert np.array_equal(one, other)


def test_an_unguided_run_is_not_continued_with_a_guide(undisturbed, member, tiny, tmp_path, monkeypatch):
    """Neither is one that is older than the option."""
    folder = run_folder(tmp_path)
    shutil.copytree(undisturbed, folder)

    def forget(config):
        del config["guide"], config["options"]["guide"], config["options"]["recipe"]["guide_weight"]

    edit(folder, forget)
    run(monkeypatch, tiny, tmp_path, "--epochs", "6")
    with pytest.raises(InputError, match="guide was not given, now with weights"):
        run(monkeypatch, tiny, tmp_path, "--epochs", "6", "--guide", str(member))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the config.json of a run; returns the run's folder."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def a_copy(guide: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    return edit(Path(shutil.copytree(guide, folder)), change)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: c["data"].update(alphabet="f00"), [], r"trained with a different alphabet .f00, here \w{16}"),
        (lambda c: c["data"].update(hash="f00"), [], r"trained with different data .f00, here \w{16}.: use a guide"),
        (lambda c: c["model_config"].update(features=3), [], r"a different number of features .3, here 5."),
        (lambda c: None, ["--strides", "2", "2"], "has stride 2, lstm_small has 4: use a guide of the same stride"),
        (lambda c: None, ["--fold", "1"], r"holds out fold 0 of 2 \(.*\), this run fold 1 of 2 \(.*\): use a guide"),
        (lambda c: None, ["--folds", "3"], r"holds out fold 0 of 2 \(.*\), this run fold 0 of 3"),
        (lambda c: None, ["--folds", "1"], r"holds out fold 0 of 2 \(.*\), this run nothing"),
        (lambda c: c.update(folds=1), [], r"holds out nothing, this run fold 0 of 2"),
        (lambda c: c.update(fold_assignment=1), [], r"fold assignment 1\), this run .*fold assignment 2\): use"),
        (lambda c: c.update(folds=1, with_dev=True), ["--folds", "1"], "trained on dev too, on which this run is"),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(change, options, message, undisturbed, tiny, tmp_path, monkeypatch):
    guide = a_copy(undisturbed, tmp_path / "guide", change)
    with pytest.raises(InputError, match=f"^--guide {guide}: {guide} .*{message}"):
        run(monkeypatch, tiny, tmp_path / "new", "--guide", str(guide), *options)
    assert not (tmp_path / "new").exists()


def test_a_guide_that_is_not_finished_is_refused(undisturbed, member, tiny, tmp_path, monkeypatch):
    """Before the first fold is trained."""
    for number, name in enumerate(("test.safetensors", "checkpoint/weights.safetensors", "config.json")):
        (shutil.copytree(undisturbed, tmp_path / f"guide{number}" / "fold0") / name).unlink()
        with pytest.raises(InputError, match=f"guide{number}/fold0 is not a finished run with checkpoint/weights"):
            run(monkeypatch, tiny, tmp_path / "new", "--guide", str(tmp_path / f"guide{number}"))
    with pytest.raises(InputError, match="nowhere/fold0 is not a finished run"):
        run(monkeypatch, tiny, tmp_path / "new", "--guide", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="lstm_small/fold1 is not a finished run"):
        run(monkeypatch, tiny, tmp_path / "new", "--guide", str(member), "--fold", "all")
    damaged = Path(shutil.copytree(undisturbed, tmp_path / "damaged"))
    (damaged / "checkpoint" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="weights.safetensors: cannot be read"):
        run(monkeypatch, tiny, tmp_path / "new", "--guide", str(damaged))
    assert not (tmp_path / "new").exists()


def test_a_guide_selected_by_held_out_distance_is_recorded(undisturbed, tiny, tmp_path, monkeypatch):
    guide = a_copy(undisturbed, tmp_path / "guide", lambda config: config.update(select="best"))
    run(monkeypatch, tiny, tmp_path / "new", "--epochs", "1", "--guide", str(guide))
    (fold_model,) = find_fold_models(tmp_path / "new")
    assert fold_model.config.select == "best"


def test_final_models_have_final_guides(undisturbed, tiny, tmp_path, monkeypatch):
    """One that was trained on dev guides models that are trained on it too."""
    guide = a_copy(undisturbed, tmp_path / "guide.all-dev" / "fold0", lambda c: c.update(folds=1, with_dev=True))
    options = ["--folds", "1", "--with-dev", "--epochs", "1", "--guide", str(guide.parent)]
    assert run(monkeypatch, tiny, tmp_path / "new", *options) == 0
    assert [it.name for it in find_fold_models(tmp_path / "new")] == ["lstm_small.all-dev"]


def test_an_impossible_weight_is_refused():
    for weight in (-1.0, float("nan")):
        with pytest.raises(InputError, match=f"--guide-weight {weight}: expected 0 or more"):
            RecipeOptions(guide_weight=weight)
    with pytest.raises(InputError, match="--guide-weight 0.5: there is no guide: pass --guide"):
        TrainOptions(recipe=RecipeOptions(guide_weight=0.5))


def test_two_guided_processes_have_the_loss_curve_of_one(member, tiny, tmp_path):
    options = [*PLAIN, "--batch-frames", "400", "--guide", str(member)]
    alone = train(tiny, tmp_path / "alone", *options)
    together = train(tiny, tmp_path / "together", *options, processes=2)
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in together] == pytest.approx([row[name] for row in alone], rel=1e-3)
