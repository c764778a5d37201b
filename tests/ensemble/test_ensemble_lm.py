"""Phone language models: sums, a recursive Kneser-Ney as reference, dense and sparse states, fold safety."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensemble.beam import beam_search
from ensemble.decoding import language_models
from ensemble.decoding.language_models import LanguageModels
from ensemble.lm import automaton
from ensemble.lm.automaton import START, advance
from ensemble.lm.kneser_ney import discounts
from ensemble.lm.ngram import DEFAULT_ORDER, PhoneLM, estimate, estimate_folds
from registry.errors import InputError

CLASSES = 5
TRANSCRIPTS = st.lists(st.lists(st.integers(1, CLASSES - 1), max_size=8), min_size=1, max_size=12)


class PlainKneserNey:
    """Interpolated modified Kneser-Ney as in the paper: counts in dictionaries, and a recursion."""

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
            self.discounts[n] = self.modified_discounts(*(tally[k] for k in (1, 2, 3, 4)))

    @staticmethod
    def modified_discounts(n1: int, n2: int, n3: int, n4: int) -> tuple[float, float, float]:
        """D1, D2 and D3+ of Chen & Goodman 1999, or one discount where they are undefined or not positive."""
        if not n1 or not n2:
            return 0.5, 0.5, 0.5
        y = n1 / (n1 + 2 * n2)
        if not n3 or not n4:
            return y, y, y
        modified = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
        return modified if min(modified) > 0 else (y, y, y)

    def probability(self, word, history: tuple) -> float:
        n = len(history) + 1
        lower = 1 / self.classes if n == 1 else self.probability(word, history[1:])
        following = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == history}
        total = sum(following.values())
        if total == 0:
            return lower
        discounted = {gram: count - self.discounts[n][min(count, 3) - 1] for gram, count in following.items()}
        left_over = total - sum(discounted.values())
        return (discounted.get((*history, word), 0) + left_over * lower) / total

    def score(self, tokens) -> float:
        words = ["<s>", *tokens, "</s>"]
        first = [max(0, i - self.order + 1) for i in range(len(words))]
        return sum(np.log(self.probability(words[i], tuple(words[first[i] : i]))) for i in range(1, len(words)))


@settings(deadline=None, max_examples=40)
@given(TRANSCRIPTS, st.integers(1, 5), st.lists(st.integers(1, CLASSES - 1), max_size=10))
def test_scores_are_those_of_the_plain_recursion(transcripts, order, tokens):
    lm = estimate(transcripts, CLASSES, order)
    assert lm.score(tokens) == pytest.approx(PlainKneserNey(transcripts, CLASSES, order).score(tokens), abs=1e-5)


def test_each_count_has_its_discount():
    # Chen & Goodman 1999, equation 26: n1 to n4 are 8, 4, 3 and 1, so Y = 0.5.
    counts = np.repeat([1, 2, 3, 4, 7], [8, 4, 3, 1, 5])
    np.testing.assert_allclose(discounts(counts), [0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 3 / 4, 3 - 4 * 0.5 * 1 / 3])
    np.testing.assert_allclose(discounts(np.array([1, 1, 2, 3])), [0, 0.5, 0.5, 0.5])  # no n-gram was counted 4 times
    np.testing.assert_allclose(discounts(np.array([5, 6])), [0, 0.5, 0.5, 0.5])
    # D2 would be 2 - 3 * 0.5 * 4 / 1 < 0.
    np.testing.assert_allclose(discounts(np.array([1, 1, 2, 3, 3, 3, 3, 4])), [0, 0.5, 0.5, 0.5])
    # D2 would be 2 - 3 * 2/3 * 1 / 1 = 0: nothing would be left for what was never seen after such n-grams.
    np.testing.assert_allclose(discounts(np.array([1, 1, 1, 1, 2, 3, 4])), [0, 2 / 3, 2 / 3, 2 / 3])


def states_and_rows(lm: PhoneLM) -> dict[int, tuple[np.ndarray, list[int]]]:
    """The states that can be reached: log-probabilities `(C,)` and the next states."""
    reached, todo = {}, [START]
    while todo:
        state = todo.pop()
        if state not in reached:
            log_probs, following = zip(*(advance(*lm.automaton, state, c) for c in range(lm.classes)), strict=True)
            reached[state] = np.array(log_probs), list(following)
            todo += following[1:]
    return reached


@pytest.mark.parametrize("dense_bytes", [0, 1 << 20])
@settings(deadline=None, max_examples=40)
@given(transcripts=TRANSCRIPTS, order=st.integers(1, 7))
def test_probabilities_sum_to_one_for_every_history(dense_bytes, transcripts, order):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automaton, "_DENSE_BYTES", dense_bytes)
        lm = estimate(transcripts, CLASSES, order)
    for state, (log_probs, _) in states_and_rows(lm).items():
        assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-5)
        assert np.isfinite(log_probs).all()
        assert max(lm.lowest, -lm.largest) <= log_probs.min() + 1e-6
        # What interpolation lists is never below what it backs off to, so the bound is reached.
        assert log_probs[1:].max() == pytest.approx(lm.automaton.cells[state - 1]["log_prob"], abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    TRANSCRIPTS,
    st.integers(3, 7),
    st.lists(st.lists(st.integers(1, CLASSES - 1), max_size=10), max_size=5),
    st.integers(0, 1500),
)
# Rows of all histories of two tokens do not fit, those of the fewer ones of three would.
@example([[1], [2], [3], [4], [1, 2, 3]], 4, [[1, 2, 3], [1, 2, 3, 4], [4]], 830)
def test_sparse_states_have_the_probabilities_of_dense_ones(transcripts, order, sequences, dense_bytes):
    dense = estimate(transcripts, CLASSES, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automaton, "_DENSE_BYTES", dense_bytes)
        sparse = estimate(transcripts, CLASSES, order)
    np.testing.assert_allclose(sparse.scores(sequences), dense.scores(sequences), atol=1e-4)
    assert len(states_and_rows(sparse)) == len(states_and_rows(dense))


def test_the_beam_search_finds_the_same_with_sparse_states(monkeypatch):
    random = np.random.default_rng(3)
    transcripts = [random.integers(1, CLASSES, 12) for _ in range(60)]
    logits = random.normal(size=(4, 40, CLASSES)) * 2
    log_probs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    lengths = np.full(4, 40)

    def decode() -> tuple[list[tuple[int, ...]], list[float]]:
        lm = estimate(transcripts, CLASSES, 7)
        nbest_lists = beam_search(log_probs, lengths, beam=10, nbest=10, lm=lm, lm_weight=0.7, length_bonus=0.5)
        hypotheses = [hypothesis for nbest in nbest_lists for hypothesis in nbest]
        return [h.tokens for h in hypotheses], [h.score for h in hypotheses]

    dense = decode()
    monkeypatch.setattr(automaton, "_DENSE_BYTES", 0)
    sparse = decode()
    assert sparse[0] == dense[0]
    np.testing.assert_allclose(sparse[1], dense[1], atol=1e-3)


def test_memory_grows_with_the_n_grams_not_with_histories_times_classes(monkeypatch):
    monkeypatch.setattr(automaton, "_DENSE_BYTES", 0)
    random = np.random.default_rng(0)
    lm = estimate([random.integers(1, 41, 60) for _ in range(300)], 41, order=7)
    n_grams = sum(len(grams.tokens) for grams in lm.orders)
    # A cell per n-gram, and two per history, of which there are fewer than n-grams; 42 dense rows.
    assert lm.automaton.cells.nbytes < 3 * 12 * n_grams + 42 * 42 * 12


def test_probabilities_of_all_sequences_sum_to_one():
    rows = states_and_rows(estimate([[1], [1, 2], [2]], classes=3, order=2))
    # Probability mass of all sequences up to length n by state; `ended` is the mass of those that have ended.
    mass, ended = {START: 1.0}, 0.0
    for _ in range(200):
        extended: dict[int, float] = defaultdict(float)
        for state, value in mass.items():
            log_probs, following = rows[state]
            ended += value * np.exp(log_probs[0])
            for c in (1, 2):
                extended[following[c]] += value * np.exp(log_probs[c])
        mass = extended
    assert ended == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("transcripts", [[[1]], [[]], [[1, 2], [1, 2]], [[3] * 30]])
def test_the_default_order_suits_a_tiny_corpus(transcripts):
    lm = estimate(transcripts, CLASSES)
    assert lm.order == DEFAULT_ORDER
    assert lm.score([4, 1, 4]) > -np.inf
    assert lm.score(transcripts[0]) > lm.score([4, 4, *transcripts[0]])


def test_a_longer_history_lowers_the_perplexity():
    cycle = [1, 2, 3, 1, 3, 2] * 5
    perplexities = [estimate([cycle] * 4, CLASSES, order).perplexity([cycle]) for order in (1, 2, 3)]
    assert perplexities[0] > perplexities[1] > perplexities[2]
    assert perplexities[2] < 1.6


def test_the_perplexity_of_a_uniform_model_is_its_number_of_classes():
    """The end of an utterance is a symbol too, so of an empty utterance as well."""
    uniform = PhoneLM((), CLASSES, automaton.uniform_automaton(CLASSES))
    for sequences in ([[1, 2, 1], [], [4]], [[]]):
        assert uniform.perplexity(sequences) == pytest.approx(CLASSES, rel=1e-6)


def test_silence_is_an_ordinary_label_and_unseen_labels_are_possible():
    lm = estimate([[1, 2, 1], [1, 2, 2, 1]], CLASSES, order=3)
    assert lm.score([1, 2, 1]) > lm.score([2, 1]) > lm.score([4, 4]) > -np.inf


def test_a_folds_model_never_saw_the_fold():
    transcripts = [[1, 2], [2, 1], [3, 3, 3], [3, 4, 3]]
    models = estimate_folds(transcripts, [0, 0, 1, 1], CLASSES, order=2)
    assert set(models) == {0, 1}
    for fold, others in ((0, transcripts[2:]), (1, transcripts[:2])):
        expected = estimate(others, CLASSES, order=2)
        np.testing.assert_array_equal(models[fold].automaton.cells, expected.automaton.cells)
    # Changing a fold's transcripts does not change its own model.
    changed = estimate_folds([[4, 4], [4], *transcripts[2:]], [0, 0, 1, 1], CLASSES, order=2)
    np.testing.assert_array_equal(changed[0].automaton.cells, models[0].automaton.cells)
    with pytest.raises(InputError, match="no transcripts"):
        estimate_folds(transcripts, [0, 0, 0, 0], CLASSES)
    with pytest.raises(InputError, match="one for each of the 4 transcripts"):
        estimate_folds(transcripts, [0, 1], CLASSES)


@pytest.mark.parametrize(
    ("transcripts", "classes", "order", "message"),
    [
        ([], 5, 4, "no transcripts"),
        ([[1], [2, 5]], 5, 4, "sequence 1 has token 5; expected 1 to 4"),
        ([[1], [], [5, 1]], 5, 4, "sequence 2 has token 5"),
        ([[0]], 5, 4, "sequence 0 has token 0"),
        ([[1]], 5, 0, "order 0"),
        ([[1]], 41, 40, "order 40"),
        ([[1]], 4, 32, "order 32"),
    ],
)
def test_bad_input_to_estimate_is_refused(transcripts, classes, order, message):
    with pytest.raises(InputError, match=message):
        estimate(transcripts, classes, order)


def test_language_models_are_estimated_when_they_are_used_and_only_once():
    estimated = []

    def estimator(number: int):
        estimated.append(number)
        return estimate([[number, 1]], CLASSES, order=2)

    models = LanguageModels([functools.partial(estimator, number) for number in (1, 2, 3)])
    assert len(models) == 3 and estimated == []
    assert models[1] is models[1] and estimated == [2]
    assert models[1].scores([[2, 1]]) > models[0].scores([[2, 1]])
    assert [model.order for model in models[1:]] == [2, 2] and estimated == [2, 1, 3]
    assert len(dict(enumerate(models))) == 3 and estimated == [2, 1, 3]


def test_each_fold_to_decode_gets_its_language_model(dataset, monkeypatch):
    """None, one of the order that was asked for, or the one that is read from a file, which dev and test may use."""
    outer_folds, train_folds = np.array([2, 0, 2]), np.arange(len(dataset.train)) % 3
    assert language_models.load_language_models(dataset, "none", 3, outer_folds, train_folds) == {0: None, 2: None}
    estimated = language_models.load_language_models(dataset, "train", 3, outer_folds, train_folds)
    of_all = language_models.load_language_models(dataset, "train", 2, np.zeros(1, int), None)
    assert {fold: model.order for fold, model in estimated.items()} == dict.fromkeys(range(3), 3)
    assert {fold: model.order for fold, model in of_all.items()} == {0: 2}
    monkeypatch.setattr(language_models, "read_arpa", lambda source, phonemes: of_all[0])
    assert language_models.load_language_models(dataset, "x.arpa", 3, outer_folds, None) == {0: of_all[0], 2: of_all[0]}


@pytest.mark.parametrize("perplexity", [8.4, 8.6])
def test_a_model_whose_perplexity_on_the_training_transcripts_is_low_has_seen_them(perplexity, dataset, monkeypatch):
    """Compared with that on dev, of a sample of each."""
    measured = []

    def measure(transcripts):
        of_train = all(any(np.array_equal(one, dataset.train.labels(row)) for row in rows) for one in transcripts)
        measured.append(("train" if of_train else "dev", len(transcripts)))
        return perplexity if of_train else 10.0

    rows = range(len(dataset.train))
    model = SimpleNamespace(perplexity=measure)
    monkeypatch.setattr(language_models, "read_arpa", lambda source, phonemes: model)
    monkeypatch.setattr(language_models, "_MEASURED", 5)
    outer_folds, train_folds = np.array([0, 1]), np.arange(len(dataset.train)) % 2
    if perplexity < 8.5:
        message = r"^--lm x.arpa: was estimated from the training transcripts \(perplexity 8.40 on them, 10.00 on dev\)"
        with pytest.raises(InputError, match=message):
            language_models.load_language_models(dataset, "x.arpa", 3, outer_folds, train_folds)
    else:
        loaded = language_models.load_language_models(dataset, "x.arpa", 3, outer_folds, train_folds)
        assert loaded == {0: model, 1: model}
    assert measured == [("train", 5), ("dev", 5)]
