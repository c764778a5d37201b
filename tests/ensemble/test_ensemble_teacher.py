"""Hypotheses for a student model: what is kept of a posterior, the blend's file and sidecar, and a student of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from test_ensemble_blend import run, runs

from ensemble.blenders.base import BlendRecipe
from ensemble.blenders.best import FittedBlender
from ensemble.blenders.nbest_out import (
    LEAST_POSTERIOR,
    MOST_HYPOTHESES,
    most_probable,
    nbest_method,
    posterior_blenders,
)
from ensemble.hypotheses.pool import build_pool
from folds import train
from folds.store.nbest_file import file_hash, read_nbest_file
from folds.store.ragged import Ragged
from registry import InputError

__all__ = ["runs"]  # a fixture


def test_the_most_probable_hypotheses_are_kept():
    """At most eight, each above the least posterior or the best, with posteriors that sum to 1 again."""
    tokens = Ragged.of([[1 + h] for h in range(13)], np.int16)
    offsets, nothing = np.array([0, 10, 13]), np.zeros(13)
    pool = build_pool(offsets, tokens, np.zeros((13, 1)), nothing, None)
    posteriors = np.array([0.1] * 5 + [0.2, 0.05, 0.08, 0.09, 0.08] + [0.0005, 0.99, 0.0095])
    kept = most_probable(("a", "b"), pool, posteriors)
    assert kept.ids == ("a", "b") and kept.offsets.tolist() == [0, MOST_HYPOTHESES, MOST_HYPOTHESES + 2]
    assert kept.tokens.values.tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 12, 13]
    assert kept.posteriors[:8] == pytest.approx(np.array([0.1] * 5 + [0.2, 0.08, 0.09]) / 0.87)
    assert kept.posteriors[8:] == pytest.approx(np.array([0.99, 0.0095]) / 0.9995)


def test_the_best_is_kept_however_improbable():
    count = int(2 / LEAST_POSTERIOR)
    tokens = Ragged.of([[1 + h % 40, 1 + h // 40] for h in range(count)], np.int16)
    pool = build_pool(np.array([0, count]), tokens, np.zeros((count, 1)), np.zeros(count), None)
    kept = most_probable(("a",), pool, np.full(count, 1 / count))
    assert kept.posteriors == pytest.approx(np.full(MOST_HYPOTHESES, 1 / MOST_HYPOTHESES))


def test_the_teacher_is_the_best_blender_with_a_posterior():
    def fitted(nested: int) -> FittedBlender:
        return FittedBlender(BlendRecipe("", {}), np.full(3, nested), np.full(3, nested))

    assert {"mbr", "rank", "rescore"} == set(posterior_blenders())
    assert nbest_method({"rover": fitted(1), "mbr": fitted(3), "rescore": fitted(2)}) == "rescore"


@pytest.mark.parametrize("method", ["mbr", "rank", "rescore"])
def test_the_blend_writes_what_a_student_is_trained_on(method, tiny, runs, dataset, tmp_path, monkeypatch, capsys):
    out, nbest = tmp_path / "s.csv", tmp_path / "more" / "nbest"
    options = ["--members", "a", "b", "--nbest", 20, "--pool", 40, "--lm-order", 2, "--method", method]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest-out", nbest, *options)
    described = json.loads((tmp_path / "s.csv.json").read_text())["nbest"]
    assert described == {"file": "more/nbest", "sha256": file_hash(nbest), "method": method, "tags": []}
    teacher = read_nbest_file(nbest)
    assert (teacher.data, teacher.alphabet) == (dataset.hash, dataset.alphabet.hash)
    assert set(teacher.oof.ids) == set(dataset.train.ids) and teacher.test.ids == dataset.test.ids
    assert teacher.dev.ids == dataset.dev.ids
    for hypotheses in (teacher.oof, teacher.dev, teacher.test):
        assert np.add.reduceat(hypotheses.posteriors, hypotheses.offsets[:-1]) == pytest.approx(1.0, abs=1e-6)
        assert np.diff(hypotheses.offsets).max() <= MOST_HYPOTHESES
    assert f"by {method}" in capsys.readouterr().out
    for hypotheses, split in ((teacher.oof, dataset.train), (teacher.dev, dataset.dev)):
        right = 0
        for row, utterance in enumerate(hypotheses.ids):
            first, last = hypotheses.offsets[row : row + 2]
            best = first + int(hypotheses.posteriors[first:last].argmax())
            right += hypotheses.tokens[best].tolist() == split.labels(split.ids.index(utterance)).tolist()
        assert right >= 0.6 * len(hypotheses.ids)


def test_a_student_is_trained_from_the_sidecar(tiny, runs, tmp_path, monkeypatch, capsys):
    """On hypotheses of all utterances, and with the tags of the members they are from."""
    out = tmp_path / "s.csv"
    for config in runs.glob("a/*/config.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"tags": ["pretrained"]}))
    options = ["--members", "a", "b", "--nbest", 20, "--pool", 40, "--lm-order", 2, "--method", "mbr"]
    options += ["--fit-limit", 40]
    run(monkeypatch, "--data", tiny, "--runs", runs, "--out", out, "--nbest-out", tmp_path / "nbest", *options)
    sidecar = json.loads((tmp_path / "s.csv.json").read_text())
    assert "a" in sidecar["recipe"]["weights"] and sidecar["nbest"]["tags"] == ["pretrained"]
    (tmp_path / "s.csv.json").write_text(json.dumps(sidecar | {"tags": []}))  # as if another blender were chosen
    command = ["train", "--model", "lstm_small", "--hidden", "8", "--folds", "1", "--epochs", "1", "--threads", "1"]
    command += ["--data", str(tiny), "--runs", str(tmp_path / "students"), "--teacher", f"{out}.json"]
    monkeypatch.setattr(sys, "argv", command)
    assert train.main() == 0
    assert "hypotheses of 48 of 48 utterances" in capsys.readouterr().out
    student = json.loads((tmp_path / "students" / "lstm_small.all" / "fold0" / "config.json").read_text())
    assert "pretrained" in student["tags"]


def test_a_blender_without_a_posterior_is_refused_at_once(tiny, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--nbest-out: rover has no posterior over hypotheses: use --method mbr or"):
        run(monkeypatch, "--data", tiny, "--runs", tmp_path, "--method", "rover", "--nbest-out", tmp_path / "nbest")
