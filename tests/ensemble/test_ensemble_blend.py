"""The command from a folder of runs to a submission, on simulated members of a tiny competition."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.blend import main
from folds.data.cache import load_dataset
from folds.store.log_probs import write_log_probs
from registry import InputError


@pytest.fixture(scope="module")
def dataset(tiny):
    return load_dataset(tiny, progress=False)


@pytest.fixture
def runs(dataset, tmp_path):
    """Two members of two folds each, and one of one fold; the test split's strings are known to the test alone."""
    folder = tmp_path / "runs"
    for fold in (0, 1):
        add_run(folder, dataset, "a", fold)
        add_run(folder, dataset, "b", fold, stride=2)
    add_run(folder, dataset, "attentive", 0, tags=["attention"])
    return folder


def add_run(folder, dataset, name, fold, stride=4, tags=()):
    held = [i for i, speaker in enumerate(dataset.train.speakers) if int(speaker) % 2 == fold]

    def made(split, rows, strings):
        return simulated.log_probs(
            strings,
            stride,
            seed=fold + ord(name[-1]),
            classes=dataset.alphabet.classes,
            alphabet=dataset.alphabet.hash,
            ids=[split.ids[row] for row in rows],
        )

    splits = {
        "oof": made(dataset.train, held, [dataset.train.labels(i).tolist() for i in held]),
        "dev": made(dataset.dev, range(6), [dataset.dev.labels(i).tolist() for i in range(6)]),
        "test": made(dataset.test, range(6), test_strings(dataset)),
    }
    return simulated.write_run(folder, name, fold, splits, tags=list(tags), stride=stride)


def test_strings(dataset):
    return simulated.references(6, length=6, seed=3, classes=10)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["blend", *map(str, arguments)])
    main()


test_strings.__test__ = False


def test_bare_command_writes_a_whole_submission_and_its_recipe(tiny, runs, dataset, tmp_path, monkeypatch, capsys):
    out = tmp_path / "submission.csv"
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest", 20, "--pool", 40, "--lm-order", 2)
    rows = list(csv.reader(out.open()))
    assert rows[0] == ["index", "label"] and [r[0] for r in rows[1:]] == list("012345")
    strings = [dataset.alphabet.from_string(row[1]) for row in rows[1:]]
    wrong = sum(found != told for found, told in zip(strings, test_strings(dataset), strict=True))
    assert wrong <= 4
    told = json.loads((tmp_path / "submission.csv.json").read_text())
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["recipe"]["method"] == "best" and set(told["recipe"]["weights"]) <= {"a", "b", "attentive"}
    assert {"oof", "nested", "dev", "parameters", "tags"} <= set(told)
    count = sum(len(paths) for paths in told["recipe"]["members"].values())
    assert told["parameters"] == 1000 * count
    printed = capsys.readouterr().out
    for expected in ("out of fold: 24 of 48", "a (folds 0, 1 of 2)", "chosen by the nested", "dev says", "in all"):
        assert expected in printed


def test_method_is_forced_and_members_chosen(tiny, runs, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    options = ["--members", "a", "b", "--nbest", 20, "--lm-order", 2, "--method", "rover"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    told = json.loads((tmp_path / "s.csv.json").read_text())
    assert told["recipe"]["method"] == "rover" and set(told["recipe"]["weights"]) <= {"a", "b"}


def test_folds_of_a_member_may_be_averaged_first(tiny, runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.csv"
    options = ["--fold-mean", "frames", "--members", "a", "b", "--nbest", 20, "--lm-order", 2, "--method", "rescore"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    assert "the mean frames of its 2 fold models" in capsys.readouterr().out
    told = json.loads((tmp_path / "s.csv.json").read_text())
    assert all(len(paths) == 2 for paths in told["recipe"]["members"].values())


def test_rules_are_kept(tiny, runs, tmp_path, monkeypatch):
    out = tmp_path / "s.csv"
    options = ["--max-params", "2k", "--forbid", "attention", "--nbest", 20, "--lm-order", 2, "--method", "rescore"]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, *options)
    told = json.loads((tmp_path / "s.csv.json").read_text())
    assert told["parameters"] <= 2000 and "attention" not in told["tags"]
    assert "attentive" not in told["recipe"]["members"]


def test_no_finished_member(tiny, tmp_path, monkeypatch):
    (tmp_path / "gru" / "fold0").mkdir(parents=True)
    (tmp_path / "gru" / "fold0" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no finished member; 1 were begun, such as .*gru/fold0"):
        run(monkeypatch, "--data", tiny, "--runs", tmp_path)


def test_members_of_different_utterances_write_nothing(tiny, runs, dataset, tmp_path, monkeypatch):
    strings = simulated.references(4, classes=dataset.alphabet.classes)
    other = simulated.log_probs(strings, classes=dataset.alphabet.classes, alphabet=dataset.alphabet.hash)
    write_log_probs(runs / "b" / "fold1" / "test.safetensors", other)
    out = tmp_path / "s.csv"
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
    told = json.loads((tmp_path / "s.csv.json").read_text())
    difference = told["dev_minus_best_member"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert np.isfinite([told["oof"], told["nested"], told["dev"]]).all()
