"""Distillation: what a student learns, records and resumes with, and the teachers that it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_data import labels_of, two_hypotheses
from training_runs import metrics, run, signal_in_step

from folds.data.dataset import Dataset, Split, joined
from folds.store.fold_model import find_fold_models
from folds.store.log_probs import read_log_probs
from folds.store.nbest_file import NBestFile, NBestHypotheses, file_hash, read_nbest_file, write_nbest_file
from folds.store.ragged import Ragged
from folds.training.options import RecipeOptions, TrainOptions
from folds.training.teacher import Teacher, student_targets
from models.ctc import log_likelihood
from registry import InputError

FINAL = ["--folds", "1"]
OWN_TAGS = {"cpu", "recurrent"}
"""Those of the small model that the tests train."""


@pytest.fixture(scope="module")
def sidecar(dataset, tmp_path_factory) -> Path:
    """A teacher that is right with posterior .75, and else leaves the last phoneme out; silent on three utterances."""
    folder = tmp_path_factory.mktemp("teacher")
    random = np.random.default_rng(5)
    unknown = [random.integers(1, 6, 6).tolist() for _ in dataset.test.ids]
    oof = two_hypotheses(dataset.train.ids[3:], labels_of(dataset.train)[3:])
    return write(folder, dataset, oof, two_hypotheses(dataset.test.ids, unknown))


def write(folder: Path, dataset: Dataset, oof: NBestHypotheses, test: NBestHypotheses, **facts) -> Path:
    write_nbest_file(folder / "nbest", NBestFile(oof, test, test, dataset.hash, dataset.alphabet.hash))
    nbest = {"file": "nbest", "sha256": file_hash(folder / "nbest")}
    (folder / "s.csv.json").write_text(json.dumps({"tags": ["attention"], "nbest": nbest} | facts))
    return folder / "s.csv.json"


def student(runs: Path) -> Path:
    return runs / "lstm_small.all" / "fold0"


def test_batches_have_their_utterances_hypotheses(dataset, sidecar):
    """Views of one utterance have the same; one that the teacher does not know has its transcript."""
    file = read_nbest_file(sidecar.parent / "nbest")
    targets = student_targets(Teacher(file, {"from": "x", "on_test": False}), dataset.train, len(dataset.train))
    assert (targets.taught, len(targets)) == (len(dataset.train) - 3, len(dataset.train))
    soft = targets.of_batch((5, 0, 5, 0))
    known, unknown = dataset.train.labels(5).tolist(), dataset.train.labels(0).tolist()
    assert soft.rows.tolist() == [0, 0, 1, 2, 2, 3]
    assert soft.targets.tolist() == 2 * [*known[:-1], *known, *unknown]
    assert soft.target_lengths.tolist() == 2 * [len(known) - 1, len(known), len(unknown)]
    assert soft.weights.tolist() == 2 * [0.25, 0.75, 1.0]


def test_utterances_of_other_splits_with_the_same_ids_are_others(dataset):
    """Ids are unique within one split only: dev keeps its transcripts, and test has its own hypotheses."""
    ids = dataset.train.ids[:2]
    test = two_hypotheses(ids, [[4], [5, 6]])
    file = NBestFile(two_hypotheses(ids, [[1, 2], [3]]), test, test, "data", "alphabet")
    teacher = Teacher(file, {"from": "x", "on_test": True})
    train = replace(dataset.train, ids=ids, tokens=dataset.train.tokens.take([0, 1]), groups=())
    dev = replace(dataset.dev, ids=ids, tokens=dataset.dev.tokens.take([0, 1]), groups=())
    test = replace(dataset.test, ids=ids, tokens=Ragged.of([[4], [5, 6]], np.int16), groups=())
    targets = student_targets(teacher, joined(train, joined(dev, test)), len(train))
    assert targets.taught == 4 and len(targets) == 6
    own = [dev.labels(row).tolist() for row in range(2)]
    of_test = targets.of_batch((4, 5))
    assert targets.of_batch((2, 3)).targets.tolist() == [*own[0], *own[1]]
    assert of_test.targets.tolist() == [4, 5, 5, 6] and targets.of_batch((0,)).targets.tolist() == [1, 1, 2]


def test_a_file_is_read_as_written(dataset, tmp_path):
    written = two_hypotheses(("a", "b"), [[1, 2], [3]])
    none = NBestHypotheses((), np.zeros(1, np.int64), Ragged.of([], np.int16), np.zeros(0, np.float32))
    write_nbest_file(tmp_path / "nbest", NBestFile(written, none, none, "data", "alphabet"))
    file = read_nbest_file(tmp_path / "nbest")
    assert (file.data, file.alphabet, file.oof.ids, file.test.ids) == ("data", "alphabet", ("a", "b"), ())
    assert [file.oof.tokens[h].tolist() for h in range(4)] == [[1], [1, 2], [], [3]]
    assert file.oof.posteriors.tolist() == [0.25, 0.75] * 2 and file.oof.offsets.tolist() == [0, 2, 4]


@pytest.fixture(scope="module")
def taught(sidecar, tiny, tmp_path_factory) -> Path:
    """The run folder of six epochs with the teacher, on two views."""
    runs = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, tiny, runs, *FINAL, "--epochs", "6", "--consistency", "0.2", "--teacher", str(sidecar))
    return student(runs)


def test_without_weight_the_teacher_changes_no_bit(sidecar, tiny, tmp_path, monkeypatch):
    options = [*FINAL, "--epochs", "3"]
    run(monkeypatch, tiny, tmp_path / "plain", *options)
    run(monkeypatch, tiny, tmp_path / "taught", *options, "--teacher", str(sidecar), "--teacher-weight", "0")
    plain, other = student(tmp_path / "plain"), student(tmp_path / "taught")
    assert metrics(plain) == metrics(other)
    one, two = (read_log_probs(path / "test.safetensors").values for path in (plain, other))
    assert np.array_equal(one, two)


def test_the_teacher_is_recorded(taught, sidecar):
    (fold_model,) = find_fold_models(taught.parents[1])
    nbest = file_hash(sidecar.parent / "nbest")[:16]
    assert fold_model.recorded["teacher"] == {"from": str(sidecar), "nbest": nbest, "on_test": False, "tags": []}
    assert set(fold_model.tags) == OWN_TAGS


def test_a_stopped_run_resumes_with_its_teacher_alone(taught, sidecar, tiny, dataset, tmp_path, monkeypatch):
    """Which may have moved."""
    options = [*FINAL, "--epochs", "6", "--consistency", "0.2", "--teacher"]
    signal_in_step(monkeypatch, 7)
    assert run(monkeypatch, tiny, tmp_path, *options, str(sidecar)) == 143
    (tmp_path / "other").mkdir()
    other = two_hypotheses(dataset.train.ids, labels_of(dataset.train))
    another = write(tmp_path / "other", dataset, other, other)
    with pytest.raises(InputError, match="teacher was with N-best hypotheses .*, now with N-best hypotheses"):
        run(monkeypatch, tiny, tmp_path, *options, str(another), "--resume")
    with pytest.raises(InputError, match="teacher was with N-best hypotheses .*, now not given"):
        run(monkeypatch, tiny, tmp_path, *options[:-1], "--resume")
    (tmp_path / "moved").mkdir()
    for name in ("nbest", "s.csv.json"):
        (tmp_path / "moved" / name).write_bytes((sidecar.parent / name).read_bytes())
    assert run(monkeypatch, tiny, tmp_path, *options, str(tmp_path / "moved" / "s.csv.json"), "--resume") == 0
    assert metrics(student(tmp_path)) == metrics(taught)
    one, two = (read_log_probs(path / "test.safetensors").values for path in (student(tmp_path), taught))
    assert np.array_equal(one, two)


def test_a_student_learns_what_only_its_teacher_knows(dataset, tiny, tmp_path, monkeypatch):
    """From the teacher alone, which ends each utterance one phoneme early, it does so on dev."""
    labels = labels_of(dataset.train)
    oof = two_hypotheses(dataset.train.ids, labels, posteriors=(1.0, 0.0))
    path = write(tmp_path, dataset, oof, oof)
    options = [*FINAL, "--epochs", "40", "--speed", "0", "--teacher", str(path), "--teacher-weight", "1"]
    run(monkeypatch, tiny, tmp_path / "runs", *options)
    log_probs = read_log_probs(student(tmp_path / "runs") / "dev.safetensors")
    whole, short = (
        sum(log_likelihood(log_probs[i], [part(dataset.dev.labels(i).tolist())])[0] for i in range(len(dataset.dev)))
        for part in (lambda row: row, lambda row: row[:-1])
    )
    assert short > whole


def test_a_student_of_test_is_transductive(sidecar, dataset, tiny, tmp_path, monkeypatch, capsys):
    """With dev as well, every utterance of all splits is fitted."""
    options = [*FINAL, "--with-dev", "--epochs", "1", "--teacher", str(sidecar), "--teacher-test"]
    assert run(monkeypatch, tiny, tmp_path, *options) == 0
    everything = len(dataset.train) + len(dataset.dev) + len(dataset.test)
    printed = capsys.readouterr().out
    assert f"hypotheses of {everything - len(dataset.dev) - 3} of {everything} utterances" in printed
    assert f"{everything} utterances to fit, 0 held out" in printed
    (fold_model,) = find_fold_models(tmp_path)
    assert set(fold_model.tags) == {*OWN_TAGS, "transductive"} and fold_model.recorded["teacher"]["on_test"]


@pytest.mark.parametrize("options", [(), ("--accumulate", "2")])
def test_batches_that_are_silent_by_the_teacher_are_trained_on(dataset, tiny, tmp_path, monkeypatch, options):
    """Batches are of one or two utterances, some of them without any label."""
    silence = two_hypotheses(dataset.test.ids, [[1] for _ in dataset.test.ids], posteriors=(0.9, 0.1))
    oof = two_hypotheses(dataset.train.ids, labels_of(dataset.train))
    path, longest = write(tmp_path, dataset, oof, silence), max(dataset.train.lengths.max(), dataset.test.lengths.max())
    frames = ["--batch-frames", str(longest), *options]
    given = [*FINAL, "--epochs", "1", "--teacher", str(path), "--teacher-test", *frames]
    assert run(monkeypatch, tiny, tmp_path / "runs", *given) == 0
    row = json.loads((student(tmp_path / "runs") / "metrics.jsonl").read_text())
    assert row["skipped"] == 0 and math.isfinite(row["loss"])


def test_test_is_labelled_by_the_most_probable_hypotheses(dataset):
    split = Split("test", ("b", "a"), dataset.test.frames.range(0, 2))
    both = two_hypotheses(("a", "b"), [[1, 2], [3, 4]])
    teacher = Teacher(NBestFile(both, both, both, "", ""), {"from": "x", "on_test": True})
    labelled = teacher.label_test(split)
    assert [labelled.labels(i).tolist() for i in range(2)] == [[3, 4], [1, 2]]
    with pytest.raises(InputError, match="not for the utterances of test"):
        teacher.label_test(dataset.test)


def test_tags_of_what_a_teacher_learnt_from_are_inherited(dataset, tiny, tmp_path, monkeypatch):
    """The tag attention says how a model is built, which is the student's own affair; a warm restart inherits too."""
    oof = two_hypotheses(dataset.train.ids, labels_of(dataset.train))
    path = write(tmp_path, dataset, oof, oof, tags=["attention", "external-data"])
    run(monkeypatch, tiny, tmp_path / "runs", *FINAL, "--epochs", "1", "--teacher", str(path))
    run(monkeypatch, tiny, tmp_path / "more", *FINAL, "--epochs", "1", "--restart-from", str(tmp_path / "runs"))
    for runs in ("runs", "more"):
        assert [set(it.tags) for it in find_fold_models(tmp_path / runs)] == [{*OWN_TAGS, "external-data"}]


def test_unusable_teachers_are_refused_before_anything_is_written(dataset, sidecar, tiny, tmp_path, monkeypatch):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            run(monkeypatch, tiny, tmp_path / "new", *FINAL, "--teacher", str(path))
        assert not (tmp_path / "new").exists()

    refused(tmp_path / "nowhere.json", "nowhere.json: no such file: pass the .json beside a submission")
    facts = tmp_path / "s.csv.json"
    facts.write_text("{")
    refused(facts, "not readable as JSON")
    facts.write_text(json.dumps({"nbest": {"file": "nbest"}}))
    refused(facts, "nbest: no sha256: pass the .json")
    facts.write_text(json.dumps({"nbest": (nbest := {"file": "gone", "sha256": ""})}))
    refused(facts, "gone: cannot be read")
    (tmp_path / "gone").write_bytes(b"torn")
    refused(facts, "gone was written by another blend")
    facts.write_text(json.dumps({"nbest": nbest | {"sha256": file_hash(tmp_path / "gone")}}))
    refused(facts, "gone: incomplete, or not a file of ensemble.blend --nbest-out")
    good = read_nbest_file(sidecar.parent / "nbest")
    for change, message in (({"hash": "0" * 16}, "for different data"), ({}, "no hypotheses for any training")):
        oof = good.oof if change else good.test
        refused(write(tmp_path, replace(dataset, **change), oof, good.test), message)
    other = replace(dataset, alphabet=replace(dataset.alphabet, phonemes=("", *dataset.alphabet.phonemes[:0:-1])))
    refused(write(tmp_path, other, good.oof, good.test), "for a different alphabet")


@pytest.mark.parametrize(
    ("field", "value"),
    [("posteriors", np.full(4, np.nan, np.float32)), ("offsets", np.array([0, 0, 4])), ("ids", ("a", "b", "c"))],
)
def test_inconsistent_files_are_refused(tmp_path, field, value):
    good = two_hypotheses(("a", "b"), [[1, 2], [3]])
    write_nbest_file(tmp_path / "nbest", NBestFile(replace(good, **{field: value}), good, good, "", ""))
    with pytest.raises(InputError, match="nbest: incomplete, or not a file of ensemble.blend --nbest-out .* of oof"):
        read_nbest_file(tmp_path / "nbest")


def test_options_without_sense_are_refused():
    with pytest.raises(InputError, match="--teacher with --folds 5: .* use --folds 1"):
        TrainOptions(teacher=Path("s.csv.json"))
    with pytest.raises(InputError, match="--teacher-test: there is no teacher"):
        TrainOptions(teacher_test=True)
    with pytest.raises(InputError, match="--teacher-weight 0.3: there is no teacher"):
        TrainOptions(recipe=RecipeOptions(teacher_weight=0.3))
    for weight in (-0.1, 1.5, math.nan):
        with pytest.raises(InputError, match=f"--teacher-weight {weight}: expected (0 or more|at most 1)"):
            RecipeOptions(teacher_weight=weight)
