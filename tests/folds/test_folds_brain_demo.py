"""The demo of Brain-to-Text: the competition's form, a word model that is a distribution, and the answers' score."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from folds import demo, load_dataset
from folds.competition.base import COMPETITIONS
from folds.competition.submission import read_submission, write_submission
from folds.competitions import main as list_competitions
from folds.demo import DemoOptions
from folds.synthesis import brain_to_text
from folds.synthesis.brain_to_text import PRONUNCIATIONS, BrainSettings, Trial, other_sentences
from folds.synthesis.word_model import END, WordModel
from registry import InputError

SIZES = {"days": 2, "sentences": 6, "channels": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "competition"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(brain_to_text, "SENTENCES_OF_WORD_MODEL", 200)
        assert demo.make(DemoOptions(out=out, competition="brain-to-text", **SIZES))
    return out


def test_the_demo_is_a_competition_of_that_form(root: Path) -> None:
    dataset = load_dataset(root, progress=False)
    assert dataset.format == "brain-to-text-25" and dataset.features == 8
    assert [len(split) for split in (dataset.train, dataset.dev, dataset.test)] == [8, 2, 2]
    assert set(dataset.test.groups) <= set(dataset.train.groups) and len(set(dataset.train.groups)) == 2
    texts = dataset.train.texts
    assert texts is not None
    for index, text in enumerate(texts):
        names = [dataset.alphabet.phonemes[label] for label in dataset.train.labels(index)]
        assert names == [phoneme for word in text.split() for phoneme in (*PRONUNCIATIONS[word], "|")]
        assert len(dataset.train.features(index)) > 4 * len(names)


def test_the_default_has_the_competition_s_channels() -> None:
    assert DemoOptions(competition="brain-to-text").settings.channels == 512


def test_it_is_made_once_and_only_replaces_a_demo(root: Path, tmp_path: Path) -> None:
    assert not demo.make(DemoOptions(out=root, competition="brain-to-text", **SIZES))
    (tmp_path / "thesis.txt").write_text("draft")
    with pytest.raises(InputError, match="holds something that is not part of a demo competition"):
        demo.make(DemoOptions(out=tmp_path, competition="brain-to-text", **SIZES))


def test_a_demo_of_the_other_competition_is_not_replaced(root: Path) -> None:
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(InputError, match="holds the demo of another competition: pass another --out, or remove it"):
        demo.make(DemoOptions(out=root, speakers=4, utterances=1))
    assert sorted(path.name for path in root.iterdir()) == before
    folders = [DemoOptions().folder, DemoOptions(competition="brain-to-text").folder]
    assert folders == [Path("demo/competition"), Path("demo/brain-to-text")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": 3}, "--days is for --competition brain-to-text: pass that, too, or leave --days out"),
        ({"competition": "brain-to-text", "speakers": 9}, "--speakers is for --competition hw3p2"),
    ],
)
def test_options_of_the_other_competition_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DemoOptions(**options)


def test_scores_are_word_error_rates(root: Path, tmp_path: Path) -> None:
    ids, answers = zip(*read_submission(root / brain_to_text.ANSWERS), strict=True)
    words = sum(len(answer.split()) for answer in answers)
    path = tmp_path / "submission.csv"
    write_submission(path, ("id", "text"), ids, answers)
    assert brain_to_text.score(root, path).startswith(f"{path}: word error rate 0.0 % on the demo's test set, {words}")
    write_submission(path, ("id", "text"), ids, [answers[0].upper(), ""])
    rate = len(answers[1].split()) / words
    assert f"word error rate {rate:.1%}".replace("%", " %") in brain_to_text.score(root, path)


def test_the_lexicon_has_every_word_and_the_word_model_no_sentence_of_test(root: Path) -> None:
    lines = [line.split("\t") for line in (root / brain_to_text.LEXICON).read_text().splitlines()]
    assert {word: tuple(phonemes.split()) for word, phonemes in lines} == PRONUNCIATIONS
    drawn = other_sentences(BrainSettings(0, 1, 6, 8), [])
    kept = other_sentences(BrainSettings(0, 1, 6, 8), [Trial(drawn[0]), Trial(drawn[7])])
    assert kept == [words for words in drawn if words not in (drawn[0], drawn[7])] and len(kept) < len(drawn)


def test_probabilities_of_the_word_model_sum_to_one_and_follow_the_formula() -> None:
    model = WordModel([["a", "b"], ["a", "b"], ["b", "a"]], ["a", "b", "c"])
    histories = [(), ("a",), ("c",), ("a", "b"), ("c", "a"), ("<s>", "a"), ("b", "c", "a")]
    for history in histories:
        assert sum(model.probability(word, history) for word in ("a", "b", "c", END)) == pytest.approx(1)
    # 3 "a", 3 "b" and 3 ends, so three words after the empty history; 2 of 3 times "b" follows "a", else the end.
    unigram = (3 + 3 * 0.25) / (9 + 3)
    assert model.probability("b", ()) == pytest.approx(unigram)
    assert model.probability("b", ("a",)) == pytest.approx((2 + 2 * unigram) / (3 + 2))


def test_an_arpa_file_gives_the_same_probabilities_by_backing_off(tmp_path: Path) -> None:
    model = WordModel([["a", "b"], ["a", "b"], ["b", "a", "c"]], ["a", "b", "c"])
    path = tmp_path / "words.arpa"
    model.write_arpa(path)
    table: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in path.read_text().splitlines():
        if line.count("\t"):
            log_prob, words, *weight = line.split("\t")
            table[tuple(words.split())] = float(log_prob), float(weight[0]) if weight else 0.0

    def read(word: str, history: tuple[str, ...]) -> float:
        if (*history, word) in table:
            return table[*history, word][0]
        return table.get(history, (0.0, 0.0))[1] + read(word, history[1:])

    for history in itertools.product(["a", "b", "c", "<s>"], repeat=2):
        for word in ("a", "b", "c", END):
            if "<s>" not in history[1:]:
                assert read(word, history) == pytest.approx(math.log10(model.probability(word, history)), abs=1e-6)
    assert np.isclose(table["<s>",][0], -99)


def test_all_competitions_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["competitions"])
    list_competitions()
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMPETITIONS.names())
    assert "day" in printed and "word error rate" in printed
