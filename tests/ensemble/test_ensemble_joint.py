"""The joint decoding command on a LAS of two folds: which network decodes, its output, the file, bad options."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ensemble import joint
from ensemble.decoding.joint_search import joint_search
from folds import train
from folds.competition.metric import edit_distances
from folds.competition.submission import check_submission
from folds.store.fold_model import find_fold_models, load_model
from models.features import FeatureTransform, delayed
from registry import InputError

BRIEF = ["--threads", "1", "--lr", "0.01", "--batch-frames", "400"]
SMALL = ["--channels", "8", "--bottom", "6", "--hidden", "8", "--layers", "1", "--speller", "7", "--attention", "5"]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A LAS of two folds, trained for some seconds, and an LSTM, which has no attention decoder."""
    path = tmp_path_factory.mktemp("joint")
    fixed = ["train", "--data", str(tiny), "--runs", str(path), "--folds", "2", *BRIEF]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*fixed, "--model", "las_small", "--fold", "all", "--epochs", "12", *SMALL])
        train.main()
        patch.setattr(sys, "argv", [*fixed, "--model", "lstm_small", "--epochs", "1", "--hidden", "8"])
        train.main()
    return path


@pytest.fixture
def run(tiny, runs, monkeypatch):
    def call(*more: object) -> None:
        monkeypatch.setattr(sys, "argv", ["joint", "--data", str(tiny), "--runs", str(runs), *map(str, more)])
        joint.main()

    return call


def best_hypotheses(fold_model, split, ids, weight, beam=5) -> list[list[int]]:
    """The best hypothesis of each utterance."""
    row_of = {utterance: row for row, utterance in enumerate(split.ids)}
    network = load_model(fold_model)
    utterances = [torch.tensor(split.features(row_of[utterance])) for utterance in ids]
    return [list(joint_search(network, features, beam=beam, ctc_weight=weight)[0].tokens) for features in utterances]


def test_out_of_fold_each_model_decodes_what_it_held_out(run, runs, dataset, capsys):
    run("--split", "oof", "--ctc-weight", "1", "0.3")
    lines = capsys.readouterr().out.splitlines()
    expected = []
    for fold_model in find_fold_models(runs)[:2]:
        ids = fold_model.load("oof").ids
        references = [dataset.train.labels(dataset.train.ids.index(name)) for name in ids]
        for weight in (1.0, 0.3):
            distance = edit_distances(best_hypotheses(fold_model, dataset.train, ids, weight), references).mean()
            expected.append((fold_model.fold, f"{weight:g}", len(ids), distance))
    pattern = r"las_small fold (\d), CTC weight (\S+): (\d+) utterances of oof, distance (\S+), \S+ utterances/s"
    printed = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [(int(f), w, int(n), float(d)) for f, w, n, d in printed] == [
        (f, w, n, pytest.approx(d, abs=5e-4)) for f, w, n, d in expected
    ]
    assert len({d for *_, d in expected}) > 1


def test_out_of_fold_a_refit_is_left_out(run, runs, tiny, tmp_path, monkeypatch, capsys):
    shutil.copytree(runs / "las_small", tmp_path / "las_small")
    refit = ["train", "--data", str(tiny), "--runs", str(tmp_path), "--model", "las_small", "--folds", "1", *BRIEF]
    monkeypatch.setattr(sys, "argv", [*refit, "--epochs", "1", *SMALL])
    train.main()
    capsys.readouterr()
    run("--runs", tmp_path, "--split", "oof", "--ctc-weight", "1")
    printed = capsys.readouterr()
    assert printed.err.startswith("left out: las_small.all was trained on all utterances")
    assert [line.split(",")[0] for line in printed.out.splitlines()] == ["las_small fold 0", "las_small fold 1"]


def test_one_fold_model_s_strings_become_a_submission(run, runs, dataset, tmp_path, capsys):
    out = tmp_path / "joint.csv"
    with pytest.raises(InputError, match="--out with 2 fold models: a joint search decodes only one"):
        run("--split", "test", "--out", out)
    assert not out.exists()
    run("--fold", 1, "--split", "test", "--out", out, "--beam", 2, "--ctc-weight", 0.25)
    check_submission(out, dataset.header, dataset.sample_ids, dataset.alphabet.from_string, allow_empty=True)
    fold_model = find_fold_models(runs)[1]
    hypotheses = best_hypotheses(fold_model, dataset.test, dataset.test.ids, 0.25, beam=2)
    assert [row.split(",")[1] for row in out.read_text().splitlines()[1:]] == [
        dataset.alphabet.to_string(tokens) for tokens in hypotheses
    ]
    assert f"wrote {out} ({len(dataset.test)} rows)" in capsys.readouterr().out
    sidecar = json.loads((tmp_path / "joint.csv.json").read_text())
    assert sidecar["parameters"] == fold_model.parameters and "attention" in sidecar["tags"]
    assert sidecar["recipe"] == {
        "method": "joint",
        "weights": {"las_small": 1.0},
        "settings": {"ctc_weight": 0.25, "beam": 2},
        "members": {"las_small": [str(fold_model.path)]},
    }


def test_a_network_decodes_features_as_it_reads_them_for_the_utterance_s_group(dataset, monkeypatch):
    calls = []

    def search(network, features, beam, ctc_weight, groups):
        calls.append((features.numpy(), beam, ctc_weight, tuple(groups)))
        return [SimpleNamespace(tokens=(len(calls),)), SimpleNamespace(tokens=(9,))]

    monkeypatch.setattr(joint, "joint_search", search)
    dev = replace(dataset.dev, groups=tuple(f"speaker {row}" for row in range(len(dataset.dev))))
    task = joint.JointTask(SimpleNamespace(name="las", fold=0), None, dev, [4, 1])
    assert joint.decode_jointly(task, (0.2, 0.7), 3) == [[[1], [3]], [[2], [4]]]
    for (features, *settings), (row, weight) in zip(calls, [(4, 0.2), (4, 0.7), (1, 0.2), (1, 0.7)], strict=True):
        np.testing.assert_array_equal(features, dev.features(row))
        assert settings == [3, weight, (f"speaker {row}",)]


def test_a_task_has_the_features_that_its_network_reads_and_refuses_other_data(runs, dataset, monkeypatch):
    fold_model = find_fold_models(runs)[0]
    with pytest.raises(InputError, match="las_small/fold0: was trained on data other than"):
        joint.open_task(fold_model, "dev", replace(dataset, hash="other"), None)
    network = load_model(fold_model)
    monkeypatch.setattr(joint, "load_model", lambda fold_model: network)
    monkeypatch.setattr(type(fold_model), "transform", FeatureTransform(delay=3))
    task = joint.open_task(fold_model, "dev", dataset, None)
    np.testing.assert_array_equal(task.source.features(2), delayed(dataset.dev.features(2), 3))


def test_a_limit_draws_the_same_utterances_for_all(runs, dataset):
    rows = [joint.open_task(fold_model, "dev", dataset, 3).rows for fold_model in find_fold_models(runs)[:2]]
    assert len(rows[0]) == 3 and rows[0] == rows[1]


def test_damaged_weights_are_one_line_before_anything_is_decoded(run, runs, tmp_path, capsys):
    shutil.copytree(runs / "las_small", tmp_path / "las_small")
    (tmp_path / "las_small" / "fold1" / "checkpoint" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="fold1/checkpoint/weights.safetensors: cannot be read"):
        run("--runs", tmp_path)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--members", "lstm_small"], "lstm_small/fold0: has no attention decoder"),
        (["--members", "gru*"], r"--members gru\*: no finished member"),
        (["--members", "--fold", "0"], "--members: no name is given; there are: las_small, lstm_small"),
        (["--fold", "4"], r"--fold 4: the members have no fold model of this fold: las_small \(folds 0, 1 of 2\)"),
        (["--ctc-weight", "1.5"], r"--ctc-weight \(1.5,\): expected at most 1"),
        (["--beam", "0"], "--beam 0: expected at least 1"),
        (["--limit", "-1"], "--limit -1: expected at least 1"),
        (["--out", "x.csv"], "--out: a submission needs --split test"),
        (["--out", "x.csv", "--split", "test", "--limit", "3"], "--out: a submission needs --split test"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, options, message):
    with pytest.raises(InputError, match=message):
        run(*options)
