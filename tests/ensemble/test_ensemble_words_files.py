"""The files of a search in words: pronunciations, and an n-gram model in ARPA format."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from word_search_reference import PHONEMES, SILENCE

from ensemble.words.lexicon import read_lexicon, silence_class
from ensemble.words.word_lm import read_word_lm
from folds.store.ragged import Ragged
from registry.errors import InputError

ARPA = """\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-99 <s> -0.3
-1.0 </s>
-0.7 a -0.2
-0.8 b -0.1
-0.9 x -0.5
-1.5 <unk> -0.35

\\2-grams:
-0.2 <s> a -0.4
-0.3 a b -0.25
-0.5 b </s>
-0.6 x a -0.1

\\3-grams:
-0.1 <s> a b
-0.15 a b </s>

\\end\\
"""
# The same model, to be read by the rule of back-off alone.
GRAMS = {
    tuple(fields[1 : 1 + n]): (float(fields[0]), float(fields[n + 1]) if len(fields) > n + 1 else 0.0)
    for n, section in enumerate(ARPA.split("-grams:")[1:], start=1)
    for fields in (line.split() for line in section.splitlines() if line.startswith("-"))
}


def back_off(history: tuple[str, ...], word: str) -> float:
    """log10 P(word | history) by Katz's rule."""
    if (*history, word) in GRAMS:
        return GRAMS[*history, word][0]
    return GRAMS.get(history, (0.0, 0.0))[1] + back_off(history[1:], word)


def sentence_log_prob(words: tuple[str, ...]) -> float:
    known = ["<s>", *(word if (word,) in GRAMS else "<unk>" for word in words), "</s>"]
    pairs = [(tuple(known[max(0, i - 2) : i]), known[i]) for i in range(1, len(known))]
    return float(np.log(10) * sum(back_off(*pair) for pair in pairs))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lexicon.txt").write_text("a A\nb\tB\n\nc A B\nd B\na A A\n")
    (tmp_path / "words.arpa").write_text(ARPA)
    return tmp_path


def test_lexicon_and_model_of_words(folder: Path) -> None:
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    assert lexicon.words == ("", "a", "b", "c", "d")
    assert [lexicon.pronunciations[p].tolist() for p in lexicon.pronunciations_of[1]] == [[1], [1, 1]]
    assert lexicon.text([3, 1]) == "c a"
    assert silence_class(PHONEMES) == SILENCE and silence_class(["", "A"]) == 0
    lm = read_word_lm(folder / "words.arpa", lexicon)
    assert (lm.order, lm.unknown) == (3, 2)
    sentences = [words for length in range(5) for words in itertools.product("abcd", repeat=length)]
    numbered = Ragged.of([[lexicon.number_of[word] for word in words] for words in sentences], np.int32)
    np.testing.assert_allclose(lm.scores(numbered), [sentence_log_prob(words) for words in sentences], rtol=1e-5)


def test_unigram_model(folder: Path) -> None:
    head = "\\data\\\nngram 1=3\n\n\\1-grams:\n-0.5 a\n-0.6 </s>\n-0.3 <unk>\n\n\\end\\\n"
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    for text in (head, head.replace("<unk>", "<UNK>")):  # SRILM's and others' spelling
        (folder / "words.arpa").write_text(text)
        scores = read_word_lm(folder / "words.arpa", lexicon).scores(Ragged.of([[1, 2], []], np.int32))
        np.testing.assert_allclose(scores, np.log(10) * np.array([-1.4, -0.6]), 1e-5)


def test_cmudict_is_read_as_it_is(tmp_path: Path) -> None:
    """Comments, other pronunciations, and stress, which alone does not make another pronunciation."""
    path = tmp_path / "lexicon.txt"
    path.write_text(";;; # CMUdict\na A0\na(2) A1 B\nb(1) B2\na(3) A2\n(2) B\n")
    lexicon = read_lexicon(path, PHONEMES)
    assert lexicon.words == ("", "a", "b", "(2)") and lexicon.word_of.tolist() == [1, 1, 2, 3]
    assert [part.tolist() for part in map(lexicon.pronunciations.__getitem__, range(4))] == [[1], [1, 2], [2], [2]]
    path.write_text("a A0\n")
    assert read_lexicon(path, ["", "A", "A0"]).pronunciations[0].tolist() == [2]  # where phonemes have stress


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a A\nb Q\n", "line 2: 'b' has the unknown phoneme 'Q'; expected those of the competition (A B |)"),
        ("a A\nb\n", "line 2: 'b' has no phonemes"),
        ("a A\n\na A\n", "line 3: lists 'a A' twice"),
        ("\n", "lists no words"),
    ],
)
def test_bad_lexicon(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_lexicon(path, PHONEMES)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-0.3 a b -0.25", "-0.3 b a", "lists the 3-gram '<s> a b' without"),
        ("-0.2 <s> a -0.4", "-0.2 a b -0.4", "lists the 2-gram 'a b' twice"),
        ("-0.8 b", "-0.8 a", "lists the 1-gram 'a' twice"),
        ("ngram 3=2", "ngram 3=3", "has {1: 6, 2: 4, 3: 2} n-grams"),
        ("\\end\\", "", "incomplete, or not an ARPA file"),
    ],
)
def test_bad_model_of_words(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "words.arpa").write_text(ARPA.replace(old, new, 1))
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    if "without" in message:
        (folder / "words.arpa").write_text(ARPA.replace("-0.2 <s> a -0.4", "-0.2 <s> b -0.4", 1))
    with pytest.raises(InputError, match="(?s)words.arpa") as caught:
        read_word_lm(folder / "words.arpa", lexicon)
    assert message in str(caught.value)
