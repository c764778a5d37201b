"""The search in words: against the sum over all paths of all word sequences of tiny lexicons, and its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_search_reference import PHONEMES, SILENCE, all_paths, plain_word_search, random_search, tiny_lm

from ensemble.words.lexicon import Lexicon, read_lexicon
from ensemble.words.likelihood import sentence_likelihoods
from ensemble.words.search import Vocabulary, WordSettings, word_beam_search
from ensemble.words.search_trials import SearchTrials
from ensemble.words.trie import build_trie
from ensemble.words.word_lm import read_word_lm
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged
from models.ctc import log_likelihood
from registry.errors import InputError

PRONUNCIATION = st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple)
LEXICONS = st.lists(st.lists(PRONUNCIATION, min_size=1, max_size=2, unique=True), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(LEXICONS, st.integers(1, 4), st.sampled_from([0, SILENCE]), st.integers(0, 10_000), st.booleans())
def test_search_is_the_sum_over_all_paths(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[list[tuple[int, ...]]],
    frames: int,
    silence: int,
    seed: int,
    look_ahead: bool,
) -> None:
    vocabulary, log_probs = random_search(tmp_path_factory.getbasetemp(), entries, frames, silence, seed)
    lexicon = vocabulary.lexicon
    expected = all_paths(log_probs, lexicon, silence, frames)

    wide = WordSettings(lm_weight=0.7, word_bonus=0.5, beam=5000, look_ahead=look_ahead)
    found = word_beam_search([log_probs], vocabulary, wide, nbest=10_000)
    sentences = [tuple(found.words[h].tolist()) for h in range(len(found.words))]
    assert set(sentences) == set(expected) and len(sentences) == len(expected)
    np.testing.assert_allclose(found.ctc, [expected[words] for words in sentences], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.lm, vocabulary.lm.scores(found.words), atol=1e-5)
    scores = found.scores(wide)
    assert (np.diff(scores) <= 1e-9).all()

    exact = sentence_likelihoods([log_probs], found.offsets, found.words, lexicon, silence)
    np.testing.assert_allclose(exact, [expected[words] for words in sentences], rtol=1e-5, atol=1e-5)

    # A narrow beam finds a part of it, and never more than there is.
    narrow = word_beam_search([log_probs], vocabulary, wide._replace(beam=2), nbest=10)
    for h, score in enumerate(narrow.ctc):
        assert score <= expected[tuple(narrow.words[h].tolist())] + 1e-5


@settings(max_examples=200, deadline=None)
@given(
    LEXICONS,
    st.integers(1, 12),
    st.sampled_from([0, SILENCE]),
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([0.5, 4.0, 25.0, -1.0]),
    st.sampled_from([3.0, 12.0]),
)
def test_pruning_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[list[tuple[int, ...]]],
    frames: int,
    silence: int,
    seed: int,
    beam: int,
    look_ahead: bool,
    word_bonus: float,
    scale: float,
) -> None:
    vocabulary, log_probs = random_search(tmp_path_factory.getbasetemp(), entries, frames, silence, seed, scale)
    options = WordSettings(lm_weight=1.5, word_bonus=word_bonus, beam=beam, look_ahead=look_ahead)
    expected = plain_word_search(log_probs, vocabulary, options, reject_far_ways=True)
    found = word_beam_search([log_probs], vocabulary, options, nbest=1000)
    sentences = {tuple(found.words[h].tolist()): score for h, score in enumerate(found.ctc)}
    assert sentences == pytest.approx(expected, abs=1e-4)


def test_ties_do_not_widen_the_beam(tmp_path: Path) -> None:
    """No word and either word are equally probable after one frame, and two of the three stay."""
    vocabulary, _ = random_search(tmp_path, [[(1,)], [(2,)]], 1, silence=0, seed=0)
    options = WordSettings(lm_weight=0.0, word_bonus=0.0, beam=2, look_ahead=False)
    found = word_beam_search([np.log(np.full((1, 4), 0.25, np.float32))], vocabulary, options, nbest=10)
    assert len(found.words) == 2


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 20]))
def test_words_with_the_same_pronunciation(
    tmp_path_factory: pytest.TempPathFactory, seed: int, beam: int
) -> None:
    """So there are many more ways to continue a prefix than prefixes in the beam."""
    vocabulary, log_probs = random_search(tmp_path_factory.getbasetemp(), [[(1,)]] * 20, 3, SILENCE, seed)
    options = WordSettings(lm_weight=0.3, word_bonus=1.0, beam=beam)
    expected = plain_word_search(log_probs, vocabulary, options)
    found = word_beam_search([log_probs], vocabulary, options, nbest=10_000)
    sentences = {tuple(found.words[h].tolist()): score for h, score in enumerate(found.ctc)}
    assert sentences == pytest.approx(expected, abs=1e-4)


def words_of_one_phoneme(folder: Path, count: int) -> Vocabulary:
    """A vocabulary of `count` words, each of its own phoneme."""
    (folder / "lexicon.txt").write_text("".join(f"w{number} P{number}\n" for number in range(1, count + 1)))
    (folder / "words.arpa").write_text(tiny_lm(count, seed=0))
    lexicon = read_lexicon(folder / "lexicon.txt", ["", *(f"P{number}" for number in range(1, count + 1))])
    return Vocabulary(lexicon, read_word_lm(folder / "words.arpa", lexicon))


def random_frames(frames: int, classes: int, seed: int, blank: float = 0.0) -> np.ndarray:
    """Random log-probabilities (frames, classes); `blank` is added to the blank's logits."""
    logits = np.random.default_rng(seed).normal(0, 1.5, (frames, classes)).astype(np.float32)
    logits[:, 0] += blank
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def test_thousands_of_sentences_are_found(tmp_path: Path) -> None:
    """More than there is room for at first; P(words) is that of their phonemes."""
    vocabulary, log_probs = words_of_one_phoneme(tmp_path, 13), random_frames(4, 14, seed=0)
    found = word_beam_search([log_probs], vocabulary, WordSettings(beam=50_000), nbest=50_000)
    sentences = [tuple(found.words[h].tolist()) for h in range(len(found.words))]
    assert len(set(sentences)) == len(sentences)
    # Between equal words there is a blank, so four frames have room for three words with one repetition.
    assert len(sentences) == 1 + 13 + 13**2 + 13 * 12 * 12 + 2 * 13 * 12 + 13 * 12**3
    np.testing.assert_allclose(found.ctc, log_likelihood(log_probs, sentences), rtol=1e-5)
    np.testing.assert_allclose(found.lm, vocabulary.lm.scores(found.words), atol=1e-5)


def test_a_narrow_beam_over_many_words(tmp_path: Path) -> None:
    """More prefixes compete for the beam than there is room for at first, and many leave it and come back."""
    vocabulary, options = words_of_one_phoneme(tmp_path, 200), WordSettings(beam=3)
    for seed in range(20):
        log_probs = random_frames(4, 201, seed, blank=5.0)
        found = word_beam_search([log_probs], vocabulary, options, nbest=1000)
        sentences = {tuple(found.words[h].tolist()): score for h, score in enumerate(found.ctc)}
        assert sentences == pytest.approx(plain_word_search(log_probs, vocabulary, options), abs=1e-4)


def test_tree_shares_beginnings() -> None:
    lexicon = Lexicon(("", "ab", "a", "abb"), Ragged.of([[1, 2], [1], [1, 2, 2]], np.int16), np.array([1, 2, 3]))
    trie = build_trie(lexicon, silence=0)
    assert trie.token.tolist() == [0, 0, 1, 2, 2]
    assert trie.words.tolist() == [2, 1, 3]
    children = [list(range(first, last)) for first, last in zip(trie.first_child, trie.last_child, strict=True)]
    assert children == [[2], [2], [3], [4], []]


def test_frames_without_any_sentence(tmp_path: Path) -> None:
    """A blank is impossible, and no word is made of silence alone."""
    vocabulary, _ = random_search(tmp_path, [[(1,)], [(2,)]], 1, silence=0, seed=0)
    only_silence = np.full((3, 4), -np.inf, np.float32)
    only_silence[:, SILENCE] = 0.0
    found = word_beam_search([only_silence, np.log(np.full((2, 4), 0.25, np.float32))], vocabulary, nbest=1)
    assert np.diff(found.offsets).tolist() == [0, 1]
    with pytest.raises(InputError, match="utterance 1, frame 0: NaN"):
        word_beam_search([only_silence, np.full((1, 4), np.nan, np.float32)], vocabulary)
    one_word = Ragged.of([[1]], np.int32)
    assert sentence_likelihoods([only_silence], np.array([0, 1]), one_word, vocabulary.lexicon, 0) == [-np.inf]


def test_settings_are_fitted_on_words_as_the_metric_compares_them(tmp_path: Path) -> None:
    """The model prefers the second spelling of a word, and references have the number of the first."""
    (tmp_path / "lexicon.txt").write_text("May A\nmay A\n")
    (tmp_path / "words.arpa").write_text(
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-0.5 </s>\n-99 <s>\n-3 May\n-0.2 may\n\n\\end\\\n"
    )
    lexicon = read_lexicon(tmp_path / "lexicon.txt", PHONEMES)
    vocabulary = Vocabulary(lexicon, read_word_lm(tmp_path / "words.arpa", lexicon))
    utterance = np.log([[0.01, 0.97, 0.01, 0.01], [0.97, 0.01, 0.01, 0.01]]).astype(np.float16)
    log_probs = LogProbs(np.tile(utterance, (4, 1)), np.arange(0, 9, 2), tuple("abcd"), "", 0, 1)
    trials = SearchTrials.of(log_probs, [[1]] * 4, np.zeros(4, np.int64), vocabulary, "member")
    preferred = [row for row, settings in enumerate(trials.grid) if settings.lm_weight > 0]
    assert preferred and not trials.errors[preferred].any()
    assert trials.settings().lm_weight > 0
    # All utterances are of fold 0, so nothing is left to fit its settings on.
    assert trials.settings(0) == WordSettings()
