"""Phone language models: sums, a recursive Kneser-Ney as reference, fold safety, ARPA files and damaged ones."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.lm.arpa import read_arpa, write_arpa
from ensemble.lm.ngram import PhoneLM, estimate, estimate_folds
from registry.errors import InputError

PHONEMES = ("", "[SIL]", "AA", "B", "K")
CLASSES = len(PHONEMES)
TRANSCRIPTS = st.lists(st.lists(st.integers(1, CLASSES - 1), max_size=8), min_size=1, max_size=12)


class PlainKneserNey:
    """Interpolated Kneser-Ney as in the paper: counts in dictionaries, and a recursion."""

    def __init__(self, transcripts, classes: int, order: int) -> None:
        self.classes, self.order = classes, order
        occurrences, before = defaultdict(Counter), defaultdict(set)
        for tokens in transcripts:
            words = ["<s>", *tokens, "</s>"]
            for last in range(1, len(words)):
                for n in range(1, min(order, last + 1) + 1):
                    gram = tuple(words[last - n + 1 : last + 1])
                    occurrences[n][gram] += 1
                    if last >= n:
                        before[gram].add(words[last - n])
        self.counts, self.discounts = {}, {}
        for n in range(1, order + 1):
            self.counts[n] = {
                gram: count if n == order or gram[0] == "<s>" else len(before[gram])
                for gram, count in occurrences[n].items()
            }
            tally = Counter(self.counts[n].values())
            self.discounts[n] = tally[1] / (tally[1] + 2 * tally[2]) if tally[1] and tally[2] else 0.5

    def probability(self, word, history: tuple) -> float:
        n = len(history) + 1
        lower = 1 / self.classes if n == 1 else self.probability(word, history[1:])
        following = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == history}
        total = sum(following.values())
        if total == 0:
            return lower
        discount = self.discounts[n]
        count = following.get((*history, word), 0)
        return (max(count - discount, 0) + discount * len(following) * lower) / total

    def score(self, tokens) -> float:
        words = ["<s>", *tokens, "</s>"]
        first = [max(0, i - self.order + 1) for i in range(len(words))]
        return sum(np.log(self.probability(words[i], tuple(words[first[i] : i]))) for i in range(1, len(words)))


@settings(deadline=None, max_examples=40)
@given(TRANSCRIPTS, st.integers(1, 5), st.lists(st.integers(1, CLASSES - 1), max_size=10))
def test_scores_are_those_of_the_plain_recursion(transcripts, order, tokens):
    lm = estimate(transcripts, CLASSES, order)
    assert lm.score(tokens) == pytest.approx(PlainKneserNey(transcripts, CLASSES, order).score(tokens), abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(TRANSCRIPTS, st.integers(1, 5))
def test_probabilities_sum_to_one_for_every_history(transcripts, order):
    lm = estimate(transcripts, CLASSES, order)
    np.testing.assert_allclose(np.exp(lm.log_probs.astype(np.float64)).sum(axis=1), 1.0, atol=1e-6)
    assert np.isfinite(lm.log_probs).all()
    assert ((lm.next_state >= 0) & (lm.next_state < len(lm.log_probs))).all()


def test_probabilities_of_all_sequences_sum_to_one():
    lm = estimate([[1], [1, 2], [2]], classes=3, order=2)
    # Probability mass of all sequences up to length n by state; `ended` is the mass of those that have ended.
    mass = np.zeros(len(lm.log_probs))
    mass[0], ended = 1.0, 0.0
    probs = np.exp(lm.log_probs.astype(np.float64))
    for _ in range(200):
        ended += float(mass @ probs[:, 0])
        extended = np.zeros_like(mass)
        for c in (1, 2):
            np.add.at(extended, lm.next_state[:, c], mass * probs[:, c])
        mass = extended
    assert ended == pytest.approx(1.0, abs=1e-6)


def test_a_longer_history_lowers_the_perplexity():
    cycle = [1, 2, 3, 1, 3, 2] * 5
    perplexities = [estimate([cycle] * 4, CLASSES, order).perplexity([cycle]) for order in (1, 2, 3)]
    assert perplexities[0] > perplexities[1] > perplexities[2]
    assert perplexities[2] < 1.6


def test_silence_is_an_ordinary_label_and_unseen_labels_are_possible():
    lm = estimate([[1, 2, 1], [1, 2, 2, 1]], CLASSES, order=3)
    assert lm.score([1, 2, 1]) > lm.score([2, 1]) > lm.score([4, 4]) > -np.inf


def test_a_folds_model_never_saw_the_fold():
    transcripts = [[1, 2], [2, 1], [3, 3, 3], [3, 4, 3]]
    models = estimate_folds(transcripts, [0, 0, 1, 1], CLASSES, order=2)
    assert set(models) == {0, 1}
    for fold, others in ((0, transcripts[2:]), (1, transcripts[:2])):
        expected = estimate(others, CLASSES, order=2)
        np.testing.assert_array_equal(models[fold].log_probs, expected.log_probs)
    # Changing a fold's transcripts does not change its own model.
    changed = estimate_folds([[4, 4], [4], *transcripts[2:]], [0, 0, 1, 1], CLASSES, order=2)
    np.testing.assert_array_equal(changed[0].log_probs, models[0].log_probs)
    with pytest.raises(InputError, match="no transcripts"):
        estimate_folds(transcripts, [0, 0, 0, 0], CLASSES)
    with pytest.raises(InputError, match="one for each of the 4 transcripts"):
        estimate_folds(transcripts, [0, 1], CLASSES)


@pytest.mark.parametrize(
    ("transcripts", "classes", "order", "message"),
    [
        ([], 5, 4, "no transcripts"),
        ([[1], [2, 5]], 5, 4, "sequence 1 has token 5; expected 1 to 4"),
        ([[0]], 5, 4, "sequence 0 has token 0"),
        ([[1]], 5, 0, "order 0"),
        ([[1]], 41, 40, "order 40"),
    ],
)
def test_bad_input_to_estimate_is_refused(transcripts, classes, order, message):
    with pytest.raises(InputError, match=message):
        estimate(transcripts, classes, order)


@settings(deadline=None, max_examples=25)
@given(TRANSCRIPTS, st.integers(1, 5))
def test_arpa_round_trip(tmp_path_factory, transcripts, order):
    lm = estimate(transcripts, CLASSES, order)
    path = tmp_path_factory.mktemp("arpa") / "lm.arpa"
    write_arpa(path, lm, PHONEMES)
    read = read_arpa(path, PHONEMES)
    assert read.order == order
    np.testing.assert_array_equal(read.next_state, lm.next_state)
    np.testing.assert_allclose(read.log_probs, lm.log_probs, atol=1e-6)


# An ARPA file that `write_arpa` would not write: pruned, with <unk>, without some back-off weights. log10 p.
FOREIGN = """
a comment
\\data\\
ngram 1=7
ngram 2=2

\\1-grams:
-99 <s> -0.30103
-2 <unk>
-0.69897 </s>
-0.69897\t[SIL]\t-0.1
-0.69897 AA
-0.69897 B
-0.69897 K

\\2-grams:
-0.5 <s> AA
-0.2 [SIL] AA

\\end\\
"""


def test_a_foreign_arpa_file_is_read_as_back_off_models_are(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(FOREIGN)
    lm = read_arpa(path, PHONEMES)
    fifth = np.log(10) * -0.69897
    assert lm.score([2]) == pytest.approx(np.log(10) * -0.5 + fifth, abs=1e-5)
    # <s> [SIL] backs off; [SIL] AA is a bigram; AA </s> has no back-off weight.
    assert lm.score([1, 2]) == pytest.approx(np.log(10) * (-0.30103 - 0.2) + 2 * fifth, abs=1e-5)
    assert lm.score([3, 4]) == pytest.approx(np.log(10) * -0.30103 + 3 * fifth, abs=1e-5)
    assert isinstance(lm, PhoneLM)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("B", "ZZ", "line 13: 'ZZ' is not in the competition's alphabet"),
        ("-0.5 <s>", "-0.x <s>", "line 17: found '-0.x' where a number is expected"),
        ("-0.5 <s>", "nan <s>", "finite"),
        ("-0.5 <s> AA", "-0.5 <s>", "line 17: .* expected a probability, 2 words"),
        ("ngram 2=2", "ngram 2=3", "holds .* where its header says"),
        ("\\end\\", "", "not a whole ARPA file"),
        ("\\data\\", "", "not a whole ARPA file"),
        ("-0.69897 K\n", "", "header says"),
    ],
)
def test_damaged_arpa_files_are_refused_with_the_line(tmp_path, old, new, message):
    path = tmp_path / "lm.arpa"
    path.write_text(FOREIGN.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_arpa(path, PHONEMES)


def test_a_label_without_a_unigram_another_alphabet_and_no_file_are_refused(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(FOREIGN.replace("-0.69897 K\n", "").replace("ngram 1=7", "ngram 1=6"))
    with pytest.raises(InputError, match="no unigram for label 4"):
        read_arpa(path, PHONEMES)
    with pytest.raises(InputError, match="no such file"):
        read_arpa(tmp_path / "none.arpa", PHONEMES)
    path.write_bytes(b"\\data\\\n\xff\xfe")
    with pytest.raises(InputError, match="not text"):
        read_arpa(path, PHONEMES)
    lm = estimate([[1, 2]], CLASSES)
    with pytest.raises(InputError, match="5 classes, the alphabet 3"):
        write_arpa(path, lm, PHONEMES[:3])
    with pytest.raises(InputError, match="distinct single words"):
        write_arpa(path, lm, ("", "a b", "c", "d", "e"))
