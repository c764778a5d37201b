"""Adapted runs: what they predict, record and refuse, and the refits and delayed twins that belong to them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import labels_of, two_hypotheses
from training_runs import run as train_quick
from training_runs import run_folder, summary

import models
from ensemble.members.finished import without_outdated
from ensemble.members.member import Member
from ensemble.members.refits import recipe_difference
from folds.adapt import AdaptOptions, write_adapted
from folds.delay import DelayOptions, write_delayed
from folds.soup import SoupOptions, make_soup
from folds.store.fold_model import find_fold_models, load_model, read_fold_model
from folds.store.nbest_file import NBestFile, file_hash, write_nbest_file
from folds.store.run_folder import RunFolder
from registry import InputError


@pytest.fixture(scope="module")
def sidecar(dataset, tmp_path_factory) -> Path:
    """Hypotheses of all splits: the transcript with posterior .75, else without its last phoneme; of test, guesses."""
    random = np.random.default_rng(5)
    guesses = [random.integers(1, 6, 6).tolist() for _ in dataset.test.ids]
    known = [two_hypotheses(split.ids, labels_of(split)) for split in (dataset.train, dataset.dev)]
    file = NBestFile(*known, two_hypotheses(dataset.test.ids, guesses), "", "")
    return write(tmp_path_factory.mktemp("first"), dataset, file)


def write(folder: Path, dataset, file: NBestFile) -> Path:
    write_nbest_file(folder / "nbest", replace(file, data=dataset.hash, alphabet=dataset.alphabet.hash))
    nbest = {"file": "nbest", "sha256": file_hash(folder / "nbest")}
    (folder / "s.csv.json").write_text(json.dumps({"tags": ["pretrained"], "nbest": nbest}))
    return folder / "s.csv.json"


@pytest.fixture(scope="module")
def adapted(tiny, sidecar, tmp_path_factory):
    """A runs folder with one run and what became of it."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_quick(monkeypatch, tiny, runs, "--epochs", "1")
    (written,) = write_adapted(options(runs, tiny, sidecar))
    assert written.name == "lstm_small.adapted/fold0"
    return runs


def options(runs: Path, data: Path, sidecar: Path | None, **changes) -> AdaptOptions:
    return AdaptOptions(run=(run_folder(runs),), data=data, hypotheses=sidecar, device="cpu", **changes)


def test_the_adapted_run_says_what_it_was_made_of(adapted, sidecar, dataset):
    plain, ours = find_fold_models(adapted)
    speakers = sorted({*(dataset.train.groups[i] for i in held_out(plain, dataset)), "90", "91"})
    assert ours.config.group_layer == {"by": "speaker", "groups": speakers, "softsign": False}
    assert ours.parameters == plain.parameters + 30 * len(speakers)
    assert set(ours.tags) == {*plain.tags, "pretrained", "transductive"}
    assert ours.trained_weights_hash == plain.weights_hash != ours.weights_hash
    assert ours.recorded["adaptation"] | {"nbest": "", "tags": []} == {
        "from": str(sidecar), "nbest": "", "tags": [], "of": plain.weights_hash, "passes": 8, "lr": 0.02,
    }  # fmt: skip
    assert summary(ours.path)["cpu_minutes"] == summary(plain.path)["cpu_minutes"]
    assert all((ours.load(split).values != plain.load(split).values).any() for split in ("oof", "dev", "test"))


def held_out(fold_model, dataset) -> list[int]:
    return [dataset.train.ids.index(utterance) for utterance in fold_model.load("oof").ids]


def test_predictions_are_those_of_each_speakers_layer(adapted, tiny, dataset):
    _, ours = find_fold_models(adapted)
    loaded, stored = load_model(ours), ours.load("dev")
    x = torch.tensor(dataset.dev.features(0))[None]
    row = ours.config.group_layer["groups"].index("90")
    layer = loaded.group_layer
    loaded.group_layer = None
    with torch.no_grad():
        expected, _ = loaded(x + x @ layer.weight[row] + layer.bias[row], torch.tensor([x.shape[1]]))
    np.testing.assert_allclose(stored[0], expected[0].numpy(), atol=0.02)
    raw = np.load(next(tiny.glob(f"dev*/mfcc/{stored.ids[0]}.npy")))
    np.testing.assert_allclose(models.load(ours.path).predict([raw], groups=["90"])[0], stored[0], atol=0.02)


def test_what_is_done_is_left_out_and_made_again_for_other_settings(adapted, tiny, sidecar, tmp_path, capsys):
    shutil.copytree(adapted, tmp_path, dirs_exist_ok=True)
    assert write_adapted(options(tmp_path, tiny, sidecar)) == []
    assert capsys.readouterr().out == "lstm_small.adapted fold 0: already finished, left unchanged\n"
    moved = tmp_path / "moved"
    shutil.copytree(sidecar.parent, moved)
    assert write_adapted(options(tmp_path, tiny, moved / sidecar.name)) == []  # the same hypotheses
    (again,) = write_adapted(options(tmp_path, tiny, sidecar, passes=1))
    assert read_fold_model(again).config.adaptation.passes == 1
    every = AdaptOptions(run=tuple(tmp_path.glob("*/fold*")), data=tiny, hypotheses=sidecar, passes=1)
    assert write_adapted(every) == []  # an adapted run is not adapted again


def test_an_adapted_run_has_delayed_twins(adapted, tiny, tmp_path):
    shutil.copytree(adapted, tmp_path, dirs_exist_ok=True)
    _, ours = find_fold_models(tmp_path)
    (folder,) = write_delayed(DelayOptions(run=(ours.path,), data=tiny, device="cpu"))
    twin = read_fold_model(folder)
    assert twin.name == "lstm_small.adapted.delay1" and twin.weights_hash == ours.weights_hash
    assert twin.trained_weights_hash == ours.trained_weights_hash and twin.config.group_layer


def test_what_was_made_of_an_earlier_version_of_a_run_is_left_out(adapted, tiny, sidecar, tmp_path):
    """Its network is no longer that of the run beside it, so it would count, and weigh, as one more."""
    shutil.copytree(adapted, tmp_path, dirs_exist_ok=True)
    plain, ours = find_fold_models(tmp_path)
    (folder,) = write_delayed(DelayOptions(run=(ours.path,), data=tiny, device="cpu"))
    kept, notes = without_outdated(find_fold_models(tmp_path))
    assert len(kept) == 3 and not notes
    write_adapted(options(tmp_path, tiny, sidecar, passes=1))
    kept, notes = without_outdated(find_fold_models(tmp_path))
    assert [model.name for model in kept] == ["lstm_small", "lstm_small.adapted"]
    assert notes == [f"left out: {folder.path} was made from an earlier version of its run: repeat folds.delay"]
    plain.folder.weights.write_bytes(b"trained again")
    kept, notes = without_outdated(find_fold_models(tmp_path))
    assert [model.name for model in kept] == ["lstm_small"]
    assert [note.split(": repeat ")[1] for note in notes] == ["folds.adapt", "folds.adapt"]
    shutil.rmtree(plain.path)  # as in a store of results alone
    assert [model.name for model in without_outdated(find_fold_models(tmp_path))[0]] == ["lstm_small.adapted"]


def test_an_adapted_run_is_neither_trained_on_nor_averaged(adapted, tiny, tmp_path, monkeypatch):
    plain, ours = find_fold_models(adapted)
    message = f"{ours.path} is adapted or delayed: use the run itself, {plain.path}"
    with pytest.raises(InputError, match=message):
        train_quick(monkeypatch, tiny, tmp_path, "--epochs", "1", "--restart-from", str(ours.path))
    with pytest.raises(InputError, match=message.replace(" is", ": is")):
        make_soup(SoupOptions(run=(ours.path,), data=tiny))


@pytest.mark.parametrize(
    ("member", "refit_of", "trained_run"),
    [
        ("gru.adapted", "gru.adapted", "gru"),
        ("gru.all.adapted", "gru.adapted", "gru.all"),
        ("gru.seed1.all.adapted.delay2", "gru.seed1.adapted.delay2", "gru.seed1.all"),
        ("gru", "gru", "gru"),
        ("gru_adapted", "gru_adapted", "gru_adapted"),
        ("gru-delay2", "gru-delay2", "gru-delay2"),
    ],
)
def test_names(member, refit_of, trained_run):
    run = RunFolder(Path("runs") / member / "fold0")
    assert run.refit_of == refit_of and run.trained_run.member == trained_run
    assert RunFolder(Path("runs/gru.all/fold0")).adapted.member == "gru.all.adapted"


def test_an_adapted_refit_belongs_to_the_adapted_fold_models(adapted, tiny, sidecar, tmp_path, monkeypatch):
    """Also where it was trained further than they were: its weights come from theirs, by way of another run."""
    shutil.copytree(adapted, tmp_path, dirs_exist_ok=True)
    final = ["--folds", "1", "--epochs", "2", "--restart-from"]
    train_quick(monkeypatch, tiny, tmp_path / "second", *final, str(tmp_path))
    train_quick(monkeypatch, tiny, tmp_path / "third", *final, str(tmp_path / "second"))
    refit = tmp_path / "third" / "lstm_small.all" / "fold0"
    for passes in (8, 1):
        run = AdaptOptions(run=(refit,), data=tiny, hypotheses=sidecar, device="cpu", passes=passes)
        (folder,) = write_adapted(run)
        plain, ours = find_fold_models(tmp_path)
        difference = recipe_difference(read_fold_model(folder), Member("x", (ours,)).fold_models)
        assert (difference is None) == (passes == 8)
        assert difference is None or difference.startswith("adaptation [")
    assert recipe_difference(read_fold_model(RunFolder(refit)), [plain]) is None
    assert str(recipe_difference(read_fold_model(RunFolder(refit)), [ours])).startswith("adaptation None, not [")


def test_errors_say_what_to_do(adapted, tiny, dataset, sidecar, tmp_path):
    with pytest.raises(InputError, match="no run is given"):
        AdaptOptions(hypotheses=sidecar)
    with pytest.raises(InputError, match="--hypotheses is missing: run python -m ensemble.blend --method mbr"):
        AdaptOptions(run=(run_folder(adapted),))
    few = two_hypotheses(dataset.train.ids[:3], labels_of(dataset.train)[:3])
    others = [two_hypotheses(split.ids, [[1, 2]] * len(split)) for split in (dataset.dev, dataset.test)]
    incomplete = write(tmp_path, dataset, NBestFile(few, *others, "", ""))
    with pytest.raises(InputError, match="lacks utterances that these runs held out"):
        write_adapted(options(adapted, tiny, incomplete))
    copy = tmp_path / "lstm_small.adapted" / "fold0"
    shutil.copytree(run_folder(adapted).parent.with_name("lstm_small.adapted") / "fold0", copy)
    with pytest.raises(InputError, match="folds.adapt: all of these runs were derived from others"):
        write_adapted(AdaptOptions(run=(copy,), data=tiny, hypotheses=sidecar))
    with pytest.raises(InputError, match="fold7 is not a finished run"):
        write_adapted(AdaptOptions(run=(run_folder(adapted).with_name("fold7"),), data=tiny, hypotheses=sidecar))


def test_runs_that_held_out_what_the_blend_did_not_are_left_out(tiny, dataset, sidecar, tmp_path, monkeypatch, capsys):
    """A blend has hypotheses of the folds that all of its members have; members may have more."""
    train_quick(monkeypatch, tiny, tmp_path, "--epochs", "1", "--fold", "0,1")
    first, second = find_fold_models(tmp_path)
    known = held_out(first, dataset)
    of_fold = two_hypotheses([dataset.train.ids[i] for i in known], [labels_of(dataset.train)[i] for i in known])
    others = [two_hypotheses(split.ids, [[1, 2]] * len(split)) for split in (dataset.dev, dataset.test)]
    of_one = write(tmp_path, dataset, NBestFile(of_fold, *others, "", ""))
    every = AdaptOptions(run=(second.path, first.path), data=tiny, hypotheses=of_one, device="cpu", passes=1)
    assert [folder.name for folder in write_adapted(every)] == ["lstm_small.adapted/fold0"]
    count = len(held_out(second, dataset))
    assert f"left out: {second.path} held out {count} utterances for which the blend" in capsys.readouterr().out


def test_other_data_are_refused_before_anything_is_computed(adapted, tiny, sidecar, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    for path in other.glob("train*/mfcc/*"):
        path.rename(path.with_name(f"9{path.name}"))
    for path in other.glob("train*/transcript/*"):
        path.rename(path.with_name(f"9{path.name}"))
    monkeypatch.setattr("folds.adapt.adapt", lambda *arguments, **options: pytest.fail("computed"))
    with pytest.raises(InputError, match="fold0: was trained on data other than .*: pass its data with --data"):
        write_adapted(options(adapted, other, sidecar))


def test_a_network_with_a_group_layer_is_refused(tiny, sidecar, tmp_path, monkeypatch):
    train_quick(monkeypatch, tiny, tmp_path, "--epochs", "1", "--group-layer", "speaker")
    with pytest.raises(InputError, match="fold0: was trained with --group-layer: leave this run out"):
        write_adapted(options(tmp_path, tiny, sidecar))
