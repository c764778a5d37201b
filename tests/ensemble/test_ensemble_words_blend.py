"""Blends in words on a small Brain-to-Text demo: simulated members, every blender, the commands, text scorers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from simulated_members import log_probs, write_run

from ensemble import blend, decode
from ensemble.words.lexicon import Lexicon
from ensemble.words.scorers import TEXT_SCORERS, score_texts
from ensemble.words.word_inputs import WordCache, number_words
from folds.competition.bootstrap import bootstrap, paired_bootstrap
from folds.competition.metric import word_error_rate
from folds.competition.submission import read_submission
from folds.data.cache import load_dataset
from folds.data.dataset import Dataset
from folds.store.ragged import Ragged
from folds.synthesis import brain_to_text
from folds.synthesis.brain_to_text import Trial
from registry.errors import InputError

Run = Callable[..., str]
DEMO = brain_to_text.BrainSettings(seed=3, days=4, sentences=18, channels=2)


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words") / "competition"
    root.mkdir()
    brain_to_text.write(root, DEMO)
    return root


@pytest.fixture(scope="module")
def dataset(competition: Path) -> Dataset:
    return load_dataset(competition)


@pytest.fixture(scope="module")
def runs(competition: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of two folds by days, with the errors of `simulated_members`."""
    runs = tmp_path_factory.mktemp("runs")
    answers = dict(read_submission(competition / brain_to_text.ANSWERS))
    test = [Trial(tuple(answers[row].split())).labels for row in dataset.sample_ids]
    days = sorted(set(dataset.train.groups))
    for number, name in enumerate(("first", "second")):
        for fold in range(2):
            held_out = [row for row, day in enumerate(dataset.train.groups) if days.index(day) % 2 == fold]
            seed, common = 10 * number + fold, {"classes": dataset.alphabet.classes, "alphabet": dataset.alphabet.hash}
            splits = {
                "oof": log_probs(
                    [dataset.train.labels(row).tolist() for row in held_out],
                    error=0.2,
                    seed=seed,
                    ids=[dataset.train.ids[row] for row in held_out],
                    **common,
                ),
                "dev": log_probs(
                    [dataset.dev.labels(row).tolist() for row in range(len(dataset.dev))],
                    error=0.2,
                    seed=seed + 100,
                    ids=dataset.dev.ids,
                    **common,
                ),
                "test": log_probs(test, error=0.2, seed=seed + 200, ids=dataset.test.ids, **common),
            }
            write_run(runs, name, fold, splits, fold_assignment=1)
    return runs


@pytest.fixture
def run(
    competition: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    def call(main: Callable[[], None], *arguments: object) -> str:
        fixed = ["command", "--data", competition, "--runs", runs]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in (*fixed, *arguments)])
        main()
        return capsys.readouterr().out

    yield call


def test_blend_in_words(run: Run, competition: Path, dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    printed = run(blend.main, "--out", out)
    sidecar = json.loads((tmp_path / "submission.csv.json").read_text())
    assert out.read_text().startswith("id,text\n0,")
    rows = dict(read_submission(out))
    answers = dict(read_submission(competition / brain_to_text.ANSWERS))
    assert list(rows) == dataset.sample_ids == list(answers)
    error = word_error_rate([rows[row] for row in answers], list(answers.values()))
    assert error < 0.15
    assert all(name in printed for name in ("average", "mbr", "rescore", "rover", "single", "word error rates in %"))
    assert sidecar["metric"] == "word error rate" and sidecar["recipe"]["method"] == "words"
    assert sidecar["nested"] >= 0 and sidecar["dev"] < 0.15
    assert sum(sidecar["recipe"]["weights"].values()) == pytest.approx(1)
    # The same command gives the same bytes.
    run(blend.main, "--out", tmp_path / "again.csv", "--method", sidecar["recipe"]["settings"]["chosen"])
    assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()


def test_text_scorer_takes_part(run: Run, tmp_path: Path) -> None:
    seen: set[str] = set()

    def count(texts: list[str]) -> list[float]:
        seen.update(texts)
        return [-float(len(text)) for text in texts]

    TEXT_SCORERS.register("length")(count)
    sentences = Ragged.of([[1, 2], [], [1, 2]], np.int32)
    assert score_texts("length", sentences, ("", "a", "bc")).tolist() == [-4.0, 0.0, -4.0]
    run(blend.main, "--out", tmp_path / "scored.csv", "--method", "rescore", "--text-scorer", "length")
    settings = json.loads((tmp_path / "scored.csv.json").read_text())["recipe"]["settings"]["settings"]
    assert "attention_weight" in settings and set(dict(read_submission(tmp_path / "scored.csv")).values()) <= seen

    TEXT_SCORERS.register("short")(lambda texts: [0.0])
    with pytest.raises(InputError, match="text scorer short: returned values of shape"):
        score_texts("short", sentences, ("", "a", "bc"))
    with pytest.raises(InputError, match="unknown text scorer 'leng'; did you mean length"):
        run(blend.main, "--out", tmp_path / "none.csv", "--method", "rescore", "--text-scorer", "leng")


def test_decode_one_member(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    for split, count in (("oof", len(dataset.train)), ("dev", len(dataset.dev))):
        printed = run(decode.main, "--members", "first", "--split", split)
        assert f"first: {count} utterances, word error rate " in printed and "greedy phoneme error rate " in printed
        assert re.search(r"first: language model weight \S+, word bonus \S+ \(fitted out of fold\)\n", printed)
    run(decode.main, "--members", "first", "--split", "test", "--out", tmp_path / "one.csv")
    assert [row for row, _ in read_submission(tmp_path / "one.csv")] == dataset.sample_ids
    with pytest.raises(InputError, match="are for phonemes, and this competition is decoded to words"):
        run(decode.main, "--members", "first", "--lm", "train")
    with pytest.raises(InputError, match="--lm-order, --tune, .* are for phonemes"):
        run(decode.main, "--members", "first", "--lm-order", 3)
    with pytest.raises(InputError, match="--lm-weight and --length-bonus are for phonemes"):
        run(decode.main, "--members", "first", "--lm-weight", 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lexicon", "none.txt"], "none.txt: no such file; a competition in words needs a lexicon: pass --lexicon"),
        (["--word-lm", "none.arpa"], "needs a language model of words: pass --word-lm FILE"),
        (["--method", "rank"], "unknown word blender 'rank'"),
        (["--nbest-out", "nbest.npz"], "--nbest-out is for students and adaptation, which need phonemes"),
    ],
)
def test_bad_options(run: Run, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run(blend.main, "--out", tmp_path / "submission.csv", *options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_words_are_compared_as_the_metric_does() -> None:
    lexicon = Lexicon(("", "Don't", "know"), Ragged.of([[1], [2]], np.int16), np.array([1, 2]))
    assert number_words(["don't know, you", "You know."], lexicon) == [[1, 2, 3], [3, 2]]


def test_a_word_that_begins_with_an_apostrophe_is_one_as_in_the_lexicon() -> None:
    lexicon = Lexicon(("", "get", "'em"), Ragged.of([[1], [2]], np.int16), np.array([1, 2]))
    assert number_words(["Get 'em!", "'em - get"], lexicon) == [[1, 2], [2, 1]]


def test_blends_take_words_for_the_same_as_the_metric_does(run: Run, competition: Path, tmp_path: Path) -> None:
    """The language model knows the second spelling of each word alone, references have the number of the first."""
    lines = (competition / "lexicon.txt").read_text().splitlines()
    spelt = [line.split(maxsplit=1) for line in lines]
    both = [*lines, *(f"{word.upper()} {phonemes}" for word, phonemes in spelt)]
    (tmp_path / "lexicon.txt").write_text("\n".join(both))
    grams = (competition / "words.arpa").read_text().split("\n")
    upper = [line if line.startswith(("\\", "ngram")) else _in_upper_case(line) for line in grams]
    (tmp_path / "upper.arpa").write_text("\n".join(upper))
    files = "--lexicon", tmp_path / "lexicon.txt", "--word-lm", tmp_path / "upper.arpa"
    for method in ("mbr", "rover", "average", "single"):
        run(blend.main, "--out", tmp_path / "out.csv", "--method", method, *files)
        sidecar = json.loads((tmp_path / "out.csv.json").read_text())
        assert sidecar["dev"] < 0.15 and sidecar["nested"] < 0.3, method


def _in_upper_case(line: str) -> str:
    """An n-gram with its words in upper case, but for the marks of the begin and the end of sentences."""
    columns = line.split("\t")
    words = " ".join(word if word.startswith("<") else word.upper() for word in columns[1].split()) if line else ""
    return "\t".join([columns[0], words, *columns[2:]]) if line else line


def test_words_that_the_metric_takes_for_the_same_have_one_number() -> None:
    words = Lexicon(("", "May", "may", "a.", "A"), Ragged.of([[1], [2], [3], [4]], np.int16), np.arange(1, 5))
    assert words.same_as.tolist() == [0, 1, 1, 3, 3]
    assert number_words(["a may"], words) == [[3, 1]]
    assert words.same_as[[4, 2]].tolist() == [3, 1]


def test_a_sentence_is_kept_once_for_all_predictions() -> None:
    cache = WordCache()
    sentences = Ragged.of([[1, 2], [], [1, 2], [3]], np.int32)
    assert cache.number(np.array([0, 0, 1, 1]), sentences).tolist() == [0, 1, 2, 3]  # of two utterances
    cache.scores_of(5)[2] = -7.5
    assert cache.number(np.array([1, 1]), Ragged.of([[4], [1, 2]], np.int32)).tolist() == [4, 2]
    np.testing.assert_array_equal(cache.scores_of(5), [np.nan, np.nan, -7.5, np.nan, np.nan])
    np.testing.assert_array_equal(cache.scores_of(6), np.full(5, np.nan))
    assert len(cache.numbers) == 5


def test_interval_of_an_error_rate() -> None:
    errors, words = np.array([1, 0, 3, 2]), np.array([2, 4, 6, 8])
    rate = bootstrap(errors, ["a", "a", "b", "b"], sizes=words)
    assert rate.mean == pytest.approx(6 / 20)
    # The speakers' own rates are the extremes of what can be drawn; two speakers have wide intervals.
    factor = np.sqrt(2) * 12.7062 / 1.95996  # Student's t with one degree of freedom against the normal distribution
    expected = 0.3 - factor * (0.3 - 1 / 6), 0.3 + factor * (5 / 14 - 0.3)
    assert (rate.low, rate.high) == pytest.approx(expected, rel=1e-4)
    equal = np.full(4, 5)
    assert paired_bootstrap(errors, errors[::-1], sizes=equal).low == pytest.approx(
        paired_bootstrap(errors, errors[::-1]).low / 5
    )
