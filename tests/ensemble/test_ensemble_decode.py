"""The decode command on simulated members of a real folder layout: what it prints, tuning, fold safety, bad options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.decode import DecodeOptions, language_models, main, open_task, tune_group
from ensemble.decoding.batched import decode_in_batches
from ensemble.decoding.decoders import decoder
from ensemble.fitting.settings import tune
from ensemble.lm.ngram import estimate
from ensemble.members.member import group_by_member
from folds.competition.submission import check_submission
from folds.data.cache import load_dataset
from folds.store.fold_model import find_fold_models
from registry.errors import InputError

FOLDS = 2


@pytest.fixture(scope="module")
def dataset(tiny):
    return load_dataset(tiny, progress=False)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> Path:
    """One member over two folds, its posteriors made from the transcripts."""
    folder = tmp_path_factory.mktemp("runs")

    def made(split, ids, seed):
        rows = {name: row for row, name in enumerate(split.ids)}
        strings = [split.labels(rows[i]).tolist() if split.tokens is not None else [1, 2] for i in ids]
        classes = dataset.alphabet.classes
        return simulated.log_probs(
            strings, error=0.4, seed=seed, classes=classes, alphabet=dataset.alphabet.hash, ids=ids
        )

    for fold in range(FOLDS):
        splits = {
            "oof": made(dataset.train, dataset.train.ids[fold::FOLDS], fold),
            "dev": made(dataset.dev, dataset.dev.ids, 10 + fold),
            "test": made(dataset.test, dataset.test.ids, 20 + fold),
        }
        simulated.write_run(folder, "gru", fold, splits)
    return folder


@pytest.fixture
def run(tiny, runs, monkeypatch):
    """The command with these arguments, in this process."""

    def call(*arguments: object) -> None:
        fixed = ("decode", "--data", tiny, "--runs", runs)
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in (*fixed, *arguments)])
        main()

    return call


def test_it_prints_distance_and_speed_with_a_progress_bar(run, capsys):
    run("--members", "g*", "--beam", 20, "--nbest", 5, "--lm", "train")
    told = capsys.readouterr()
    assert told.out.startswith("gru: 6 utterances, distance ")
    assert "best of 5" in told.out and "utterances/s" in told.out and "utterances/CPU-s" in told.out
    assert "gru:   0%" in told.err and "0/6" in told.err


def test_tuning_prints_options_and_does_not_make_out_of_fold_worse(dataset, runs, capsys):
    group = group_by_member(find_fold_models(runs))[0]
    options = DecodeOptions(lm="train", beam=8, lm_weight=0.0)
    weight, bonus = tune_group(group, dataset, options, decoder("beam"))
    assert f"--lm-weight {weight:g} --length-bonus {bonus:g}" in capsys.readouterr().out
    task = open_task(group, "oof", dataset, options)
    plain, tuned = (
        decode_in_batches(task, decoder("beam"), beam=8, nbest=1, lm_weight=w, length_bonus=b).distances(task.references)
        for w, b in ((0.0, 0.0), (weight, bonus))
    )
    assert tuned.mean() <= plain.mean()


def test_an_out_of_fold_utterance_meets_a_model_without_its_fold(dataset, runs):
    group = group_by_member(find_fold_models(runs))[0]
    task = open_task(group, "oof", dataset, DecodeOptions(lm="train"))
    assert len(task.log_probs) == len(dataset.train)
    transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
    for fold in range(FOLDS):
        assert np.flatnonzero(task.parts == fold).tolist() == list(range(fold, len(dataset.train), FOLDS))
        others = [tokens for row, tokens in enumerate(transcripts) if row % FOLDS != fold]
        expected = estimate(others, dataset.alphabet.classes, 4)
        np.testing.assert_array_equal(task.models[fold].log_probs, expected.log_probs)


def test_dev_meets_a_model_of_all_training_transcripts_and_the_mean_of_the_folds(dataset, runs):
    group = group_by_member(find_fold_models(runs))[0]
    task = open_task(group, "dev", dataset, DecodeOptions(lm="train"))
    transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
    expected = estimate(transcripts, dataset.alphabet.classes, 4)
    np.testing.assert_array_equal(task.models[0].log_probs, expected.log_probs)
    mean = np.mean([np.exp(member.load("dev")[0]) for member in group.members], axis=0)
    np.testing.assert_allclose(np.exp(task.log_probs[0]), mean, atol=2e-3)


def test_the_pattern_search_finds_the_valley_and_is_deterministic():
    def valley(weight, bonus):
        return (weight - 0.45) ** 2 + 0.1 * (bonus - 1.3) ** 2 + 0.05 * weight * bonus

    found = tune(valley, 0.3, 0.0)
    assert found == tune(valley, 0.3, 0.0)
    nearby = [valley(found[0] + i * 0.05, found[1] + j * 0.2) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert valley(*found) == min(nearby)
    assert tune(lambda weight, bonus: weight, 0.3, 0.0)[0] == 0.0


def test_an_arpa_file_is_written_and_read(run, dataset, tmp_path, capsys):
    path = tmp_path / "lm.arpa"
    run("--arpa", path, "--lm", "train", "--limit", 3)
    read = language_models(dataset, DecodeOptions(lm=str(path)), np.zeros(1, np.int64), None)[0]
    made = language_models(dataset, DecodeOptions(lm="train"), np.zeros(1, np.int64), None)[0]
    np.testing.assert_allclose(read.log_probs, made.log_probs, atol=1e-6)
    assert "3 utterances" in capsys.readouterr().out


def test_a_member_s_best_hypotheses_become_a_submission(run, dataset, runs, tmp_path, capsys):
    out = tmp_path / "one.csv"
    run("--split", "test", "--out", out)
    check_submission(out, dataset.header, dataset.sample_ids, dataset.alphabet, allow_empty=True)
    task = open_task(group_by_member(find_fold_models(runs))[0], "test", dataset, DecodeOptions())
    best = decode_in_batches(task, decoder("beam"), beam=50, nbest=1, length_bonus=0.0).hypotheses
    rows = [line.split(",")[1] for line in out.read_text().splitlines()[1:]]
    assert rows == [dataset.alphabet.to_string(found[0].tokens) for found in best]
    assert f"wrote {out} ({len(dataset.test)} rows)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("one.csv")}, "--out with --split dev"),
        ({"out": Path("one.csv"), "split": "test", "limit": 3}, "--out with --limit"),
        ({"beam": 5, "nbest": 6}, "--nbest 6 --beam 5"),
        ({"beam": 0}, "--beam 0"),
        ({"limit": 0}, "--limit 0"),
        ({"tune": True}, "--tune without a language model"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DecodeOptions(**options)


def test_faults_are_one_line(run, tmp_path):
    with pytest.raises(InputError, match="did you mean beam"):
        run("--decoder", "bean")
    with pytest.raises(InputError, match="no finished member is called so"):
        run("--members", "x*")
    wrong = tmp_path / "other.arpa"
    wrong.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 <s>\n-1 ZZ\n\n\\end\\\n")
    with pytest.raises(InputError, match="line 6: 'ZZ' is not in the competition's alphabet"):
        run("--lm", wrong)


def test_the_command_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "ensemble.decode", "--runs", str(tmp_path / "none")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 2
    assert told.stderr.startswith("error: ") and len(told.stderr.splitlines()) == 1


@pytest.mark.real
def test_real_transcripts_make_a_model_in_seconds_that_beats_its_unigrams(mini):
    dataset = load_dataset(mini, progress=False)
    train = [dataset.train.labels(row) for row in range(len(dataset.train))]
    dev = [dataset.dev.labels(row) for row in range(len(dataset.dev))]
    four, one = (estimate(train, dataset.alphabet.classes, order) for order in (4, 1))
    np.testing.assert_allclose(np.exp(four.log_probs.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)
    assert four.perplexity(dev) < 0.6 * one.perplexity(dev)
