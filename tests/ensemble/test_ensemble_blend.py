"""The command from the runs folder to a submission, and the call, on simulated members of a tiny competition."""

from __future__ import annotations

import csv
import doctest
import hashlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import Levenshtein
import numpy as np
import pytest
import simulated_members as simulated

from ensemble import InputOptions, Rules, group_by_member, open_inputs
from ensemble.blend import BlendOptions, blend, main
from ensemble.blenders.base import BLENDERS
from ensemble.members.finished import find_members
from folds.store.fold_model import find_fold_models
from folds.store.lease import hold
from folds.store.log_probs import write_log_probs
from folds.store.run_folder import SPLITS, RunFolder
from registry import InputError, atomic_write


@pytest.fixture
def runs(dataset, tmp_path):
    """Two members of two folds each, and one of one fold; only this module knows the references of the test split."""
    folder = tmp_path / "runs"
    for fold in (0, 1):
        add_run(folder, dataset, "a", fold)
        add_run(folder, dataset, "b", fold, stride=2)
    add_run(folder, dataset, "attentive", 0, tags=["attention"])
    return folder


def add_run(folder, dataset, name, fold, stride=4, tags=()):
    held = [i for i, speaker in enumerate(dataset.train.groups) if int(speaker) % 2 == fold]

    def predictions(split, rows, references):
        return simulated.log_probs(
            references,
            stride,
            seed=fold + ord(name[-1]),
            classes=dataset.alphabet.classes,
            alphabet=dataset.alphabet.hash,
            ids=[split.ids[row] for row in rows],
        )

    splits = {
        "oof": predictions(dataset.train, held, [dataset.train.labels(i).tolist() for i in held]),
        "dev": predictions(dataset.dev, range(6), [dataset.dev.labels(i).tolist() for i in range(6)]),
        "test": predictions(dataset.test, range(6), references_of_test()),
    }
    return simulated.write_run(folder, name, fold, splits, tags=list(tags), stride=stride)


def references_of_test():
    return simulated.references(6, length=6, seed=3, classes=10)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["blend", *map(str, arguments)])
    main()


def test_bare_command_writes_a_whole_submission_and_its_recipe(tiny, runs, dataset, tmp_path, monkeypatch, capsys):
    out = tmp_path / "submission.csv"
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest", 20, "--pool", 40, "--lm-order", 2)
    rows = list(csv.reader(out.open()))
    assert rows[0] == ["index", "label"] and [r[0] for r in rows[1:]] == list("012345")
    hypotheses = [dataset.alphabet.from_string(row[1]) for row in rows[1:]]
    wrong = sum(hypothesis != reference for hypothesis, reference in zip(hypotheses, references_of_test(), strict=True))
    assert wrong <= 4
    description = json.loads((tmp_path / "submission.csv.json").read_text())
    assert description["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert description["recipe"]["method"] == "best"
    assert set(description["recipe"]["weights"]) <= {"a", "b", "attentive"}
    assert {"oof", "nested", "dev", "parameters", "tags"} <= set(description)
    assert description["oracle"]["oof"] <= description["oof"]
    count = sum(len(paths) for paths in description["recipe"]["members"].values())
    assert description["parameters"] == 1000 * count
    printed = capsys.readouterr().out
    for expected in ("out of fold: 24 of 48", "a (folds 0, 1 of 2)", "chosen by the nested", "on dev: ", "in all"):
        assert expected in printed
    assert "\noracle: the best hypotheses in the pools of " in printed


def test_method_is_forced_and_members_chosen(tiny, runs, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    options = ["--members", "a", "b", "--nbest", 20, "--lm-order", 2, "--method", "rover"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    description = json.loads((tmp_path / "s.csv.json").read_text())
    assert description["recipe"]["method"] == "rover" and set(description["recipe"]["weights"]) <= {"a", "b"}


def test_folds_of_a_member_may_be_averaged_first(tiny, runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.csv"
    options = ["--fold-mean", "frames", "--members", "a", "b", "--nbest", 20, "--lm-order", 2, "--method", "rescore"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    assert "is 2 fold models, their probabilities averaged frame by frame" in capsys.readouterr().out
    description = json.loads((tmp_path / "s.csv.json").read_text())
    assert all(len(paths) == 2 for paths in description["recipe"]["members"].values())


def test_rules_are_kept(tiny, runs, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    options = ["--max-params", "2k", "--forbid", "attention", "--nbest", 20, "--lm-order", 2, "--method", "rescore"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    description = json.loads((tmp_path / "s.csv.json").read_text())
    assert description["parameters"] <= 2000 and "attention" not in description["tags"]
    assert "attentive" not in description["recipe"]["members"]


def test_no_finished_member(tiny, tmp_path, monkeypatch):
    (tmp_path / "gru" / "fold0").mkdir(parents=True)
    (tmp_path / "gru" / "fold0" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no finished member .1 unfinished, such as .*gru/fold0: .* --resume"):
        run(monkeypatch, "--data", tiny, "--runs", tmp_path)


def test_a_blend_while_runs_are_written_takes_whole_ones_only(tiny, runs, dataset, tmp_path):
    """Ten runs appear file by file, in the order of a training, while members are found and read again and again."""
    whole = RunFolder(add_run(tmp_path / "elsewhere", dataset, "c", 0))

    def write() -> None:
        for number in range(10):
            folder = RunFolder.of(runs, f"c{number}", 0)
            with hold(folder.path, folder.title):
                for name in ("config.json", *(f"{split}.safetensors" for split in SPLITS)):
                    with atomic_write(folder.path / name) as temporary:
                        temporary.write_bytes((whole.path / name).read_bytes())
                        time.sleep(0.002)  # the other thread's turn

    options = BlendOptions(data=tiny, runs=(runs,))
    counts = []
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        while not counts or not written.done():
            members = find_members(options, options.members)
            for network in (network for member in members for network in member.networks):
                assert len([network.load(split) for split in SPLITS]) == 3
            counts.append(len(members))
        written.result()
    assert counts == sorted(counts) and counts[0] >= 3 and len(find_members(options, options.members)) == 13


def test_members_of_different_utterances_write_nothing(tiny, runs, dataset, tmp_path, monkeypatch):
    references = simulated.references(4, classes=dataset.alphabet.classes)
    other = simulated.log_probs(references, 2, classes=dataset.alphabet.classes, alphabet=dataset.alphabet.hash)
    write_log_probs(RunFolder.of(runs, "b", 1).predictions("test"), other)
    out = tmp_path / "s.csv"
    monkeypatch.setattr("ensemble.blend.measure_members", None)  # all are read before anything is measured
    with pytest.raises(InputError, match="member b, fold 1.*test.*have no prediction"):
        run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest", 20, "--method", "rescore")
    assert not out.exists() and not list(tmp_path.glob("*.json"))


def test_bad_input_is_one_line_and_exit_code_2(tiny, tmp_path):
    command = [sys.executable, "-m", "ensemble.blend", "--data", str(tiny), "--runs", str(tmp_path), "--method", "rovr"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "did you mean rover" in done.stderr


def test_values_are_finite_in_the_sidecar(tiny, runs, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest", 20, "--method", "average")
    description = json.loads((tmp_path / "s.csv.json").read_text())
    difference = description["dev_minus_best_member"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert np.isfinite([description["oof"], description["nested"], description["dev"]]).all()


def test_the_example_of_the_call_runs(tiny, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "competition").symlink_to(tiny)
    (example,) = doctest.DocTestFinder().find(blend, "blend")
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=9)


def test_the_call_prints_nothing_and_writes_no_file(runs, dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    options = InputOptions(nbest=20, pool=40, lm_order=2)
    inputs = open_inputs(group_by_member(find_fold_models(runs), ["a", "b"]), dataset, options)
    result = blend(inputs, method="mbr")
    assert result.chosen == result.recipe.method == "mbr"
    assert [member.name for member in result.members] == sorted(result.recipe.weights)
    assert result.dev["mbr"].shape == (len(dataset.dev),) and len(result.hypotheses) == len(dataset.test)
    assert sorted(tmp_path.rglob("*")) == before
    assert capfd.readouterr() == ("", "")


def test_the_oracle_is_the_distance_of_the_best_hypotheses_in_the_pools(runs, dataset):
    options = InputOptions(nbest=20, pool=40, lm_order=2)
    inputs = open_inputs(group_by_member(find_fold_models(runs), ["a", "b"]), dataset, options)
    result = blend(inputs, method="rescore")
    used = [inputs.oof.names.index(member.name) for member in result.members]
    for inputs_of_split, oracle in ((inputs.oof, result.oracle.oof), (inputs.dev, result.oracle.dev)):
        pool, references = inputs_of_split.pool(used), inputs_of_split.references
        nearest = [min(Levenshtein.distance(h, r) for h in pool.hypotheses(row)) for row, r in enumerate(references)]
        assert oracle == pytest.approx(np.mean(nearest))
    assert result.oracle.method == "rescore" and result.oracle.oof < result.fitted["rescore"].oof.mean()
    assert blend(inputs, method="rover").oracle is None


def test_the_call_and_the_command_agree(tiny, runs, dataset, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest", 20, "--pool", 40, "--method", "rescore")
    inputs = open_inputs(group_by_member(find_fold_models(runs)), dataset, InputOptions(nbest=20, pool=40))
    assert not any("--nbest" in note for note in inputs.notes)
    strings = [dataset.alphabet.to_string(hypothesis) for hypothesis in blend(inputs, method="rescore").hypotheses]
    assert [row[1] for row in csv.reader(out.open())][1:] == strings


def test_lists_longer_than_the_pool_are_cut_with_a_note(runs, dataset):
    inputs = open_inputs(group_by_member(find_fold_models(runs)), dataset, InputOptions(nbest=50, pool=40))
    assert inputs.oof.nbest_size == 40
    assert "each model proposes 40 hypotheses, not --nbest 50: --pool keeps no more" in inputs.notes


def test_an_outer_fold_has_the_same_speakers_however_many_utterances_are_drawn(runs, dataset):
    """With one training fold, outer folds are groups of its speakers; two of three are in the sample."""
    one_fold = [fold_model for fold_model in find_fold_models(runs) if fold_model.fold == 0]
    members = group_by_member(one_fold)
    everything = open_inputs(members, dataset).oof.split
    fold_of = dict(zip(everything.ids, everything.outer_folds.tolist(), strict=True))
    assert len(set(fold_of.values())) == 3
    splits = [open_inputs(members, dataset, InputOptions(fit_limit=4, seed=seed)).oof.split for seed in range(8)]
    assert any(len(set(split.outer_folds.tolist())) == 2 for split in splits)
    for split in splits:
        assert split.outer_folds.tolist() == [fold_of[utterance] for utterance in split.ids]


def test_a_scorer_of_sentences_is_refused_for_phonemes(tiny, runs, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--text-scorer is for competitions in words"):
        run(monkeypatch, "--data", tiny, "--runs", runs, "--out", tmp_path / "s.csv", "--text-scorer", "length")


def test_a_tag_that_no_model_has_is_refused(tiny, runs, tmp_path, monkeypatch):
    """A misspelt rule would hold for none."""
    fixed = ["--data", tiny, "--runs", runs, "--out", tmp_path / "s.csv", "--forbid"]
    with pytest.raises(InputError, match=r"--forbid atention: no model has this tag; did you mean attention\?"):
        run(monkeypatch, *fixed, "transductive", "atention")


def test_names_are_separated_by_spaces(tiny, runs, tmp_path, monkeypatch):
    fixed = ["--data", tiny, "--runs", runs, "--out", tmp_path / "s.csv", "--members"]
    with pytest.raises(InputError, match="--members a,b: separate names by spaces: --members a b"):
        run(monkeypatch, *fixed, "a,b")


def test_fold_models_are_no_members(runs, dataset):
    with pytest.raises(InputError, match="expected members: pass the first value that members_of"):
        open_inputs(find_fold_models(str(runs)), dataset)


def test_the_rules_of_the_competition_hold_where_none_are_given(runs, dataset, monkeypatch):
    monkeypatch.setattr(type(dataset.competition), "rules", Rules(9000, ("attention",)))
    inputs = open_inputs(group_by_member(find_fold_models(runs)), dataset, rules=Rules(8000))
    assert [member.name for member in inputs.members] == ["a", "b"] and inputs.rules == Rules(8000, ("attention",))
    assert inputs.oof.split.max_params == 8000
    assert "left out by the rules: attentive (tag attention)" in inputs.notes


def test_a_member_whose_epochs_were_chosen_on_what_it_held_out_is_named(runs, dataset):
    models = [simulated.edit_config(m, select="best") if m.fold else m for m in find_fold_models(runs)]
    notes = open_inputs(group_by_member(models, ["a", "attentive"]), dataset).notes
    (note,) = (note for note in notes if "--select best" in note)
    assert note.startswith("  a, fold 1: its epoch was chosen on the held-out fold")


def test_a_blender_that_cannot_be_imported_is_named_first(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BLENDERS, "broken", lambda: {"mine": "ImportError: no torch"})
    with pytest.raises(InputError):
        run(monkeypatch, "--data", tiny, "--runs", tmp_path)
    assert capsys.readouterr().err == "left out: blender mine failed to import: ImportError: no torch\n"
