"""The search in words: against the sum over all paths of all word sequences of tiny lexicons, and its parts."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ensemble.lm.automaton import START, advance
from ensemble.words.kernel import _MARGIN
from ensemble.words.lexicon import Lexicon, read_lexicon, silence_class
from ensemble.words.likelihood import sentence_likelihoods
from ensemble.words.search import Vocabulary, WordSettings, word_beam_search
from ensemble.words.search_trials import SearchTrials
from ensemble.words.trie import build_trie
from ensemble.words.word_lm import read_word_lm
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged
from models.ctc import log_likelihood
from registry.errors import InputError

PHONEMES = ["", "A", "B", " | "]
SILENCE = 3

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


def tiny_lm(words: int, seed: int) -> str:
    """A bigram model with random probabilities, which need not sum to 1."""
    rng = np.random.default_rng(seed)
    lines = ["-99\t<s>\t-0.2", f"{-rng.random():.4f}\t</s>"]
    lines += [f"{-rng.random():.4f}\tw{number}\t-0.1" for number in range(1, words + 1)]
    pairs = [f"{-rng.random():.4f}\tw{1 + rng.integers(words)}\t</s>", f"{-rng.random():.4f}\t<s>\tw1"]
    text = f"\\data\\\nngram 1={len(lines)}\nngram 2={len(pairs)}\n\n\\1-grams:\n" + "\n".join(lines)
    return text + "\n\n\\2-grams:\n" + "\n".join(pairs) + "\n\n\\end\\\n"


PRONUNCIATION = st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple)
LEXICONS = st.lists(st.lists(PRONUNCIATION, min_size=1, max_size=2, unique=True), min_size=1, max_size=3)


def all_paths(
    log_probs: np.ndarray, lexicon: Lexicon, silence: int, frames: int
) -> dict[tuple[int, ...], float]:
    """log P_CTC of every sequence of up to `frames` words: the sum over pronunciations and silences."""
    gaps = [(), (silence,)] if silence else [()]
    labels = [tuple(lexicon.pronunciations[p]) for p in range(len(lexicon.word_of))]
    own = {word: [labels[p] for p in lexicon.pronunciations_of[word]] for word in lexicon.number_of.values()}
    found = {}
    for length in range(frames + 1):
        for words in itertools.product(own, repeat=length):
            choices = [gaps, *itertools.chain.from_iterable((own[word], gaps) for word in words)]
            sequences = [sum(chosen, ()) for chosen in itertools.product(*choices)]
            sequences = [sequence for sequence in sequences if len(sequence) <= frames]
            if sequences:
                found[words] = float(np.logaddexp.reduce(log_likelihood(log_probs, sequences)))
    return {words: score for words, score in found.items() if score > -np.inf}


def random_search(
    folder: Path, entries: list[list[tuple[int, ...]]], frames: int, silence: int, seed: int
) -> tuple[Vocabulary, np.ndarray]:
    """A vocabulary of these pronunciations with a random language model, and random log-probabilities."""
    lines = [f"w{w} " + " ".join(PHONEMES[c] for c in p) for w, own in enumerate(entries, start=1) for p in own]
    (folder / "lexicon.txt").write_text("\n".join(lines))
    (folder / "words.arpa").write_text(tiny_lm(len(entries), seed))
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    vocabulary = Vocabulary(lexicon, read_word_lm(folder / "words.arpa", lexicon), silence)
    logits = np.random.default_rng(seed).normal(0, 3, (frames, 4)).astype(np.float32)
    return vocabulary, logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


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


def plain_word_search(
    log_probs: np.ndarray, vocabulary: Vocabulary, options: WordSettings
) -> dict[tuple[int, ...], float]:
    """log P_CTC of each sentence in the beam after the last frame, in float64: every prefix is extended in every frame.

    A prefix is a word sequence with the phonemes of the next word so far, or with the silence before it.
    """
    lexicon, lm = vocabulary.lexicon, vocabulary.lm
    words_of = [(tuple(p), int(word)) for p, word in zip(lexicon.pronunciations, lexicon.word_of, strict=True)]
    unigrams, after_silence = lm.unigrams(len(lexicon.words)), (vocabulary.silence,)
    Prefix = tuple[tuple[int, ...], tuple[int, ...]]

    def below(part: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
        part = () if part == after_silence else part
        return [(p, word) for p, word in words_of if p[: len(part)] == part]

    @functools.cache
    def added(words: tuple[int, ...]) -> float:
        """What the words add to a score, without the end of the sentence."""
        state, total = START, 0.0
        for word in words:
            log_prob, state = advance(*lm.automaton, state, word)
            total += options.lm_weight * float(log_prob) + options.word_bonus
        return total

    def ahead(part: tuple[int, ...]) -> float:
        best = max(unigrams[word] for _, word in below(part)) - max(unigrams[word] for _, word in words_of)
        return options.lm_weight * best if options.look_ahead else 0.0

    def next_parts(part: tuple[int, ...]) -> set[tuple[int, ...]]:
        known = 0 if part == after_silence else len(part)
        found = {p[: known + 1] for p, _ in below(part) if len(p) > known}
        return found | ({after_silence} if part == () and vocabulary.silence else set())

    # Log-probabilities of the paths that end in a blank, and in the last phoneme.
    beam: dict[Prefix, list[float]] = {((), ()): [0.0, -np.inf]}
    for row in log_probs.astype(np.float64):
        extended: dict[Prefix, list[float]] = {}
        for (words, part), (blank, label) in beam.items():
            total = np.logaddexp(blank, label)
            extensions = [((words, part), 0, total + row[0])]
            extensions += [((words, part), 1, label + row[part[-1]])] if part else []
            ways = [(words, part), *(((*words, word), ()) for p, word in words_of if p == part)]
            for following, start in ways:
                for new in next_parts(start):
                    before = blank if part and part[-1] == new[-1] else total
                    extensions.append(((following, new), 1, before + row[new[-1]] + added(following) - added(words)))
            for prefix, which, score in extensions:
                entry = extended.setdefault(prefix, [-np.inf, -np.inf])
                entry[which] = np.logaddexp(entry[which], score)
        scores = {prefix: np.logaddexp(*masses) + ahead(prefix[1]) for prefix, masses in extended.items()}
        lowest = max(scores.values()) + np.log(_MARGIN)
        ranked = sorted((p for p in scores if scores[p] > lowest), key=scores.__getitem__, reverse=True)
        # Ties at the edge of the beam may be broken either way.
        assume(len(ranked) <= options.beam or scores[ranked[options.beam - 1]] > scores[ranked[options.beam]] + 1e-6)
        beam = {prefix: extended[prefix] for prefix in ranked[: options.beam]}
    found: dict[tuple[int, ...], float] = {}
    for (words, part), masses in beam.items():
        ends = [words] if part in ((), after_silence) else []
        for sentence in [*ends, *((*words, word) for p, word in words_of if p == part)]:
            score = np.logaddexp(*masses) - added(words)
            found[sentence] = float(np.logaddexp(found.get(sentence, -np.inf), score))
    return found


@settings(max_examples=200, deadline=None)
@given(
    LEXICONS,
    st.integers(1, 12),
    st.sampled_from([0, SILENCE]),
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([0.5, 4.0, -1.0]),
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
) -> None:
    vocabulary, log_probs = random_search(tmp_path_factory.getbasetemp(), entries, frames, silence, seed)
    options = WordSettings(lm_weight=1.5, word_bonus=word_bonus, beam=beam, look_ahead=look_ahead)
    expected = plain_word_search(log_probs, vocabulary, options)
    found = word_beam_search([log_probs], vocabulary, options, nbest=1000)
    sentences = {tuple(found.words[h].tolist()): score for h, score in enumerate(found.ctc)}
    assert sentences == pytest.approx(expected, abs=1e-4)


def test_tree_shares_beginnings() -> None:
    lexicon = Lexicon(("", "ab", "a", "abb"), Ragged.of([[1, 2], [1], [1, 2, 2]], np.int16), np.array([1, 2, 3]))
    trie = build_trie(lexicon, silence=0)
    assert trie.token.tolist() == [0, 0, 1, 2, 2]
    assert trie.words.tolist() == [2, 1, 3]
    children = [list(range(first, last)) for first, last in zip(trie.first_child, trie.last_child, strict=True)]
    assert children == [[2], [2], [3], [4], []]


def test_frames_without_any_sentence(folder: Path) -> None:
    """A blank is impossible, and no word is made of silence alone."""
    lexicon = read_lexicon(folder / "lexicon.txt", PHONEMES)
    vocabulary = Vocabulary(lexicon, read_word_lm(folder / "words.arpa", lexicon))
    only_silence = np.full((3, 4), -np.inf, np.float32)
    only_silence[:, SILENCE] = 0.0
    found = word_beam_search([only_silence, np.log(np.full((2, 4), 0.25, np.float32))], vocabulary)
    assert np.diff(found.offsets).tolist() == [0, 1] and found.best[0] == []
    with pytest.raises(InputError, match="utterance 1, frame 0: NaN"):
        word_beam_search([only_silence, np.full((1, 4), np.nan, np.float32)], vocabulary)
