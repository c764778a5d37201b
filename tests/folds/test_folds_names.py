"""`--name`: two recipes of one model in one runs folder, and the names that are refused."""

from __future__ import annotations

import json

import pytest
from training_runs import run

from folds.store.fold_model import find_fold_models
from folds.store.run_folder import RunFolder, check_name, member_name
from folds.training.command_line import parse
from registry import InputError


def test_a_name_gives_a_recipe_a_folder_of_its_own(tiny, tmp_path, monkeypatch):
    run(monkeypatch, tiny, tmp_path, "--epochs", "1", "--name", "wide", "--seed", "1")
    (fold_model,) = find_fold_models(tmp_path)
    assert fold_model.path == tmp_path / "wide.seed1" / "fold0"
    assert (fold_model.name, fold_model.model) == ("wide.seed1", "lstm_small")
    config = json.loads(fold_model.folder.config.read_text())
    assert (config["name"], config["model"]) == ("wide", "lstm_small")


def test_a_name_that_another_model_has_is_refused(undisturbed, tiny, monkeypatch):
    model = ["--model", "gru_small", "--name", "lstm_small"]
    with pytest.raises(InputError, match="is a run of lstm_small, not of gru_small: train it under another --name"):
        run(monkeypatch, tiny, undisturbed.parents[1], *model)


def test_several_models_cannot_share_a_name():
    with pytest.raises(InputError, match="--name wide with --model gru_small,gru: a name belongs to one model"):
        parse(["--model", "gru_small,gru", "--name", "wide"])
    assert [model.options.name for model in parse(["--model", "gru_small,gru"])] == ["", ""]


@pytest.mark.parametrize("name", ["wide", "wide-2", "crctc_0.2", "a" * 64, "v1.all2", "x.seedling"])
def test_plain_names_are_accepted(name):
    check_name(name)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a\\b", "a b", "g*", "[x]", "a" * 65, "", "a\n"])
def test_names_that_are_no_plain_folder_names_are_refused(name):
    with pytest.raises(InputError, match="expected 1 to 64 letters, digits"):
        check_name(name)


@pytest.mark.parametrize("name", ["gru.all", "gru.all-dev", "gru.seed3", "gru.soup", "gru.seed1.all", "gru.delay2"])
def test_names_that_the_store_gives_itself_are_refused(name):
    with pytest.raises(InputError, match="names with .* are reserved"):
        check_name(name)


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("with_dev", [False, True])
def test_a_refit_names_its_fold_models(tmp_path, seed, with_dev):
    refit = RunFolder.of(tmp_path, "wide", 0, seed, folds=1, with_dev=with_dev)
    assert refit.refit_of == member_name("wide", seed)
    assert refit.soup.refit_of == RunFolder.of(tmp_path, "wide", 0, seed).soup.member
