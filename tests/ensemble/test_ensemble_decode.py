"""The decode command on simulated runs: its output, tuning, fold safety, bad options."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated_members as simulated

from ensemble.decode import DecodeOptions, main, open_task, tune_member
from ensemble.decoding.batched import decode_in_batches
from ensemble.decoding.decoders import get_decoder
from ensemble.decoding.language_models import load_language_models, transcripts_of
from ensemble.fitting.settings import pattern_search
from ensemble.lm.arpa import write_arpa
from ensemble.lm.automaton import START, advance
from ensemble.lm.ngram import estimate
from ensemble.members.member import group_by_member
from folds.competition.submission import check_submission
from folds.data.cache import load_dataset
from folds.store.fold_model import find_fold_models
from registry.errors import InputError
from submit.check import check_file

FOLDS = 2


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> Path:
    """One member of two folds, with posteriors simulated from the transcripts."""
    folder = tmp_path_factory.mktemp("runs")

    def simulated_split(split, ids, seed):
        rows = {utterance: row for row, utterance in enumerate(split.ids)}
        strings = [split.labels(rows[i]).tolist() if split.tokens is not None else [1, 2] for i in ids]
        classes = dataset.alphabet.classes
        return simulated.log_probs(
            strings, error=0.4, seed=seed, classes=classes, alphabet=dataset.alphabet.hash, ids=ids
        )

    for fold in range(FOLDS):
        splits = {
            "oof": simulated_split(dataset.train, dataset.train.ids[fold::FOLDS], fold),
            "dev": simulated_split(dataset.dev, dataset.dev.ids, 10 + fold),
            "test": simulated_split(dataset.test, dataset.test.ids, 20 + fold),
        }
        simulated.write_run(folder, "gru", fold, splits)
    return folder


def add_refit(folder: Path, runs: Path, **facts) -> None:
    """A refit of the member in `runs`: the predictions of its first fold model, and nothing held out."""
    (fold0,) = (model for model in find_fold_models(runs) if model.fold == 0)
    splits = {split: fold0.load(split) for split in ("oof", "dev", "test")} | {"oof": fold0.load("oof").take([])}
    simulated.write_run(folder, "gru", 0, splits, folds=1, **facts)


@pytest.fixture
def run(tiny, runs, monkeypatch):
    """The command with these arguments, in this process."""

    def call(*arguments: object) -> None:
        fixed = ("decode", "--data", tiny, "--runs", runs)
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in (*fixed, *arguments)])
        main()

    return call


def test_it_prints_distance_and_speed_with_a_progress_bar(run, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("--members", "g*", "--beam", 20, "--nbest", 5, "--lm", "train")
    printed = capsys.readouterr()
    distances = r"distance (\d+\.\d{3}), oracle of the 5-best (\d+\.\d{3})"
    line = rf"gru: 6 utterances, {distances}, \d+ utterances/s, \d+ utterances/CPU-s\n"
    distance, oracle = map(float, re.fullmatch(line, printed.out).groups())
    assert oracle <= distance
    assert re.search(r"gru .*  0%.*gru .*100%", printed.err, re.DOTALL)


def test_without_a_terminal_there_is_no_progress_bar(run, capsys):
    run("--members", "g*", "--beam", 2)
    assert not capsys.readouterr().err


def test_tuning_prints_options_and_does_not_make_out_of_fold_worse(dataset, runs, capsys):
    member = group_by_member(find_fold_models(runs))[0]
    options = DecodeOptions(lm="train", beam=8, lm_weight=0.0)
    weight, bonus, found = tune_member(member, dataset, options, get_decoder("beam"))
    assert f"--lm-weight {weight:g} --length-bonus {bonus:g}" in capsys.readouterr().out
    task = open_task(member, "oof", dataset, options)

    def distance(lm_weight: float, length_bonus: float) -> float:
        settings = {"beam": 8, "nbest": 1, "lm_weight": lm_weight, "length_bonus": length_bonus}
        return decode_in_batches(task, get_decoder("beam"), **settings).distances(task.references).mean()

    assert found == distance(weight, bonus) <= distance(0.0, 0.0)


def test_an_out_of_fold_utterance_gets_a_model_without_its_fold(dataset, runs):
    member = group_by_member(find_fold_models(runs))[0]
    task = open_task(member, "oof", dataset, DecodeOptions(lm="train"))
    assert len(task.log_probs) == len(dataset.train)
    transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
    for fold in range(FOLDS):
        assert np.flatnonzero(task.outer_folds == fold).tolist() == list(range(fold, len(dataset.train), FOLDS))
        others = [tokens for row, tokens in enumerate(transcripts) if row % FOLDS != fold]
        expected = estimate(others, dataset.alphabet.classes, DecodeOptions().lm_order)
        np.testing.assert_array_equal(task.language_models[fold].automaton.cells, expected.automaton.cells)


def test_dev_gets_a_model_of_all_training_transcripts_and_the_mean_of_the_folds(dataset, runs):
    member = group_by_member(find_fold_models(runs))[0]
    task = open_task(member, "dev", dataset, DecodeOptions(lm="train"))
    transcripts = [dataset.train.labels(row) for row in range(len(dataset.train))]
    expected = estimate(transcripts, dataset.alphabet.classes, DecodeOptions().lm_order)
    np.testing.assert_array_equal(task.language_models[0].automaton.cells, expected.automaton.cells)
    mean = np.mean([np.exp(fold_model.load("dev")[0]) for fold_model in member.fold_models], axis=0)
    np.testing.assert_allclose(np.exp(task.log_probs[0]), mean, atol=2e-3)


def test_the_pattern_search_finds_the_valley_and_is_deterministic():
    def valley(weight, bonus):
        return (weight - 0.45) ** 2 + 0.1 * (bonus - 1.3) ** 2 + 0.05 * weight * bonus

    best = pattern_search(valley, 0.3, 0.0)
    assert best == pattern_search(valley, 0.3, 0.0)
    nearby = [valley(best[0] + i * 0.05, best[1] + j * 0.2) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert valley(*best) == min(nearby)
    assert pattern_search(lambda weight, bonus: weight, 0.3, 0.0)[0] == 0.0


def test_an_arpa_file_is_written_and_read(run, dataset, tmp_path, capsys):
    path = tmp_path / "lm.arpa"
    run("--arpa", path, "--lm", "train", "--limit", 3)
    read_model = load_language_models(dataset, str(path), 1, np.zeros(1, np.int64), None)[0]
    estimated = load_language_models(dataset, "train", DecodeOptions().lm_order, np.zeros(1, np.int64), None)[0]
    np.testing.assert_array_equal(read_model.automaton.cells, estimated.automaton.cells)
    assert "3 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--tune"], ["--split", "oof"]])
def test_a_model_file_of_the_training_transcripts_is_refused_out_of_fold(run, dataset, tmp_path, options):
    path, short = tmp_path / "lm.arpa", tmp_path / "unigrams.arpa"
    run("--arpa", path, "--limit", 3)
    with pytest.raises(InputError, match=r"lm.arpa: was estimated from the training .* \(perplexity .* tune with --lm"):
        run("--lm", path, *options)
    write_arpa(short, estimate(transcripts_of(dataset.train), dataset.alphabet.classes, 1), dataset.alphabet.phonemes)
    run("--lm", short, "--beam", 2, *options)  # a model that has learnt next to nothing by heart


def test_a_refit_is_left_out_out_of_fold(run, runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "runs")
    add_refit(tmp_path / "runs", runs)
    run("--runs", tmp_path / "runs", "--split", "oof", "--beam", 2)
    printed = capsys.readouterr()
    assert printed.out.startswith("gru: 48 utterances") and "gru.all" not in printed.out
    why = "was trained on all utterances, so it has no out-of-fold predictions"
    assert printed.err == f"left out: gru.all {why}\n"
    with pytest.raises(InputError, match=f"--members gru.a\\*: gru.all {why}: use --split dev"):
        run("--runs", tmp_path / "runs", "--split", "oof", "--members", "gru.a*")


def test_a_member_s_best_hypotheses_become_a_submission(run, dataset, runs, tmp_path, capsys):
    out = tmp_path / "one.csv"
    run("--split", "test", "--out", out)
    check_submission(out, dataset.header, dataset.sample_ids, dataset.alphabet.from_string, allow_empty=True)
    task = open_task(group_by_member(find_fold_models(runs))[0], "test", dataset, DecodeOptions())
    nbest_lists = decode_in_batches(task, get_decoder("beam"), beam=50, nbest=1, length_bonus=0.0).hypotheses
    rows = [line.split(",")[1] for line in out.read_text().splitlines()[1:]]
    assert rows == [dataset.alphabet.to_string(nbest[0].tokens) for nbest in nbest_lists]
    assert f"wrote {out} ({len(dataset.test)} rows)" in capsys.readouterr().out


def test_a_submission_of_one_member_can_be_checked_against_the_rules(run, dataset, tmp_path):
    out = tmp_path / "one.csv"
    run("--split", "test", "--lm", "train", "--lm-weight", 0.4, "--out", out)
    checked = check_file(out, allow_empty=True, max_params=2000, forbid=("attention",))
    assert checked.blend["parameters"] == 2000 and checked.blend["tags"] == []
    assert checked.blend["recipe"]["method"] == "decode" and checked.blend["recipe"]["settings"]["lm_weight"] == 0.4
    assert list(checked.blend["recipe"]["members"]) == ["gru"]
    with pytest.raises(InputError, match="the blend has 2,000 parameters; the rules allow 1,999"):
        check_file(out, allow_empty=True, max_params=1999)


def test_the_distance_that_tuning_found_is_beside_the_submission(run, tmp_path, capsys):
    out = tmp_path / "one.csv"
    run("--split", "test", "--lm", "train", "--tune", "--beam", 5, "--out", out)
    tried = [line for line in capsys.readouterr().err.splitlines() if "out-of-fold distance" in line]
    lowest = min(float(line.rsplit(" ", 1)[1]) for line in tried)
    assert check_file(out, allow_empty=True).blend["oof"] == pytest.approx(lowest, abs=5e-4)
    run("--split", "oof", "--lm", "train", "--tune", "--beam", 5)
    assert "(weight and bonus were tuned on these utterances)" in capsys.readouterr().out


def test_a_member_of_other_training_data_is_refused_out_of_fold(dataset, runs):
    member = group_by_member(find_fold_models(runs))[0]
    fewer = replace(dataset, train=replace(dataset.train, ids=dataset.train.ids[1:]))
    with pytest.raises(InputError, match="member gru: was trained on different data; leave it out with --members"):
        open_task(member, "oof", fewer, DecodeOptions())


def test_a_refit_is_tuned_on_its_fold_models(run, runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "runs")
    add_refit(tmp_path / "runs", runs)
    options = ["--runs", tmp_path / "runs", "--lm", "train", "--tune", "--beam", 5, "--members"]
    run(*options, "gru")
    run(*options, "gru.all")
    of_folds, _, of_refit, distance = capsys.readouterr().out.splitlines()
    assert of_refit == of_folds and of_refit.startswith("gru: tuned on 48 out-of-fold utterances: --lm-weight")
    assert distance.startswith("gru.all: 6 utterances")


def test_an_unfinished_run_of_the_member_is_named(run, runs, tmp_path, capsys):
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs" / "gru" / "fold1" / "oof.safetensors").unlink()
    shutil.copytree(tmp_path / "runs" / "gru" / "fold1", tmp_path / "runs" / "other" / "fold1")
    run("--runs", tmp_path / "runs", "--split", "oof", "--beam", 2)
    printed = capsys.readouterr()
    assert printed.out.startswith("gru: 24 utterances")
    assert printed.err == f"left out: {tmp_path}/runs/gru/fold1 is not finished\n"


def test_a_refit_without_fold_models_or_of_another_recipe_is_not_tuned(run, runs, tmp_path):
    add_refit(tmp_path / "runs", runs, options={"recipe": {"epochs": 3}})
    options = ["--lm", "train", "--tune", "--members", "gru.all", "--runs", tmp_path / "runs"]
    with pytest.raises(InputError, match="member gru.all was trained on all utterances, so it has no out-of-fold"):
        run(*options)
    with pytest.raises(InputError, match="--tune: gru.all was not trained like the fold models of gru: epochs 3"):
        run(*options, runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": Path("one.csv")}, "--out with --split dev"),
        ({"out": Path("one.csv"), "split": "test", "limit": 3}, "--out with --limit"),
        ({"beam": 5, "nbest": 6}, r"--nbest 6: expected 1 to --beam \(5\)"),
        ({"beam": 0}, "--beam 0: expected at least 1"),
        ({"limit": 0}, "--limit 0"),
        ({"lm_weight": 0.45}, "--lm-weight 0.45 without a language model: pass --lm train as well"),
        ({"lm_order": 3, "lm": "x.arpa"}, "--lm-order 3 is for --lm train and --arpa"),
        ({"tune": True}, "--tune without a language model: use --lm train, or pass --lm FILE.arpa"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DecodeOptions(**options).check_for_phonemes()


def test_faults_are_one_line(run, tmp_path):
    with pytest.raises(InputError, match="did you mean beam"):
        run("--decoder", "bean")
    with pytest.raises(InputError, match="no finished member matches"):
        run("--members", "x*")
    wrong = tmp_path / "other.arpa"
    wrong.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 <s>\n-1 ZZ\n\n\\end\\\n")
    with pytest.raises(InputError, match="line 6: 'ZZ' is not in the competition's alphabet"):
        run("--lm", wrong)


def test_the_command_exits_with_2(tmp_path):
    command = [sys.executable, "-m", "ensemble.decode", "--runs", str(tmp_path / "none")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and len(process.stderr.splitlines()) == 1


@pytest.mark.real
def test_real_transcripts_make_a_model_in_seconds_that_beats_its_unigrams(mini):
    dataset = load_dataset(mini, progress=False)
    train = [dataset.train.labels(row) for row in range(len(dataset.train))]
    dev = [dataset.dev.labels(row) for row in range(len(dataset.dev))]
    four, one = (estimate(train, dataset.alphabet.classes, order) for order in (4, 1))
    state = START
    for token in dev[0]:
        probs = [math.exp(advance(*four.automaton, state, label)[0]) for label in range(four.classes)]
        assert sum(probs) == pytest.approx(1.0, abs=1e-5)
        state = advance(*four.automaton, state, token)[1]
    assert four.perplexity(dev) < 0.6 * one.perplexity(dev)
