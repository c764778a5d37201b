"""Blend inputs in words: N-best sentences of each prediction, and pools of sentences scored by all predictions.

They are `BlendInputs` whose references and pools hold word numbers of the lexicon, so blenders that use nothing else
work on words as they do on phonemes: rescoring and minimum Bayes risk.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ensemble.hypotheses.blend_inputs import BlendInputs
from ensemble.hypotheses.edit_distance import to_references
from ensemble.hypotheses.likelihoods import floor_likelihoods
from ensemble.hypotheses.pool import Pool
from ensemble.hypotheses.scored_hypotheses import sum_posteriors
from ensemble.hypotheses.scoring import keep_best
from ensemble.words.lexicon import Lexicon
from ensemble.words.likelihood import sentence_likelihoods
from ensemble.words.scorers import score_texts
from ensemble.words.search import Sentences, Vocabulary, WordSettings, word_beam_search
from ensemble.words.search_trials import SearchTrials
from folds.store.log_probs import LogProbs
from folds.store.ragged import Ragged, offsets_of

# A word has several phonemes, so both values are larger than for phonemes.
WORD_LM_GRID = {
    "lm_weight": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0),
    "length_bonus": (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
}
NBEST = 50
"""Maximum number of sentences per prediction: 20 words have far fewer good alternatives than their phonemes."""


@dataclass(frozen=True)
class WordCache:
    """Results computed for a whole split, by index of the prediction."""

    sentences: dict[int, Sentences] = field(default_factory=dict)
    numbers: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    """A number for each sentence that has been in an utterance's pool; sentences take far more memory than scores."""
    scores: dict[int, np.ndarray] = field(default_factory=dict)
    """Log-likelihoods by prediction, then by the number of the sentence; NaN if not computed."""

    def number(self, rows: np.ndarray, sentences: Ragged) -> np.ndarray:
        """The numbers (H,) of sentences of the utterances `rows` (H,)."""
        keys = ((row, tuple(sentences[h].tolist())) for h, row in enumerate(rows.tolist()))
        return np.array([self.numbers.setdefault(key, len(self.numbers)) for key in keys], np.int64)

    def scores_of(self, index: int) -> np.ndarray:
        """The scores of one prediction for all sentences so far; NaN where they are still to be filled in."""
        known = self.scores.get(index, np.empty(0))
        self.scores[index] = np.append(known, np.full(len(self.numbers) - len(known), np.nan))
        return self.scores[index]


@dataclass(frozen=True, eq=False)
class WordInputs(BlendInputs):
    """Blend inputs of one split whose hypotheses are sentences; `of` builds them from inputs in phonemes."""

    vocabulary: Vocabulary = field(kw_only=True)
    trials: Sequence[SearchTrials] = ()
    """The settings of each member's search, fitted out of fold."""
    text_scorer: str | None = None
    _words: WordCache = field(default_factory=WordCache, repr=False)

    @staticmethod
    def of(
        inputs: BlendInputs,
        texts: Sequence[str] | None,
        vocabulary: Vocabulary,
        trials: Sequence[SearchTrials],
        text_scorer: str | None = None,
    ) -> WordInputs:
        """Inputs of the same split; `texts` are the sentences of its utterances, None if they are not known."""
        references = None if texts is None else tuple(number_words(texts, vocabulary.lexicon))
        split = replace(inputs.split, references=references)
        sizes = min(inputs.nbest_size, NBEST), inputs.pool_size
        return WordInputs(split, *sizes, vocabulary=vocabulary, trials=trials, text_scorer=text_scorer)

    @property
    def classes(self) -> int:
        """Number of classes; the words of hypotheses have the numbers 1 to `classes` - 1 in the lexicon."""
        return len(self.vocabulary.lexicon.words)

    def sentences(self, index: int) -> Sentences:
        """The N-best sentences that one prediction proposes for this view's utterances."""
        cache = self._words.sentences
        if index not in cache:
            predictions, folds = self.split.predictions[index], self.split.outer_folds
            settings = self._settings(predictions.member)
            cache[index] = decode_by_fold(
                predictions.load(), folds, self.vocabulary, settings, self.nbest_size, predictions.name
            )
        return cache[index] if self.rows is None else cache[index].take(self.rows)

    def comparable(self, sentences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Sentences with the same number for all words that word error rates treat as equal."""
        same_as = self.vocabulary.lexicon.same_as
        return [same_as[np.asarray(sentence, np.int64)].tolist() for sentence in sentences]

    def _build_pool(self, indices: list[int]) -> Pool:
        offsets, sentences = _unite([self.sentences(index) for index in indices])
        ctc = [self._score_sentences(index, offsets, sentences) for index in indices]
        lm = self.vocabulary.lm.scores(sentences)
        fold_of = np.repeat(self.split.outer_folds, np.diff(offsets))
        terms = [self._language_terms(index, fold_of, lm, sentences.lengths) for index in indices]
        kept, offsets = keep_best(sum_posteriors(ctc, terms, offsets, self.shares(indices)), offsets, self.pool_size)
        sentences, lm = sentences.take(kept), lm[kept]
        other = np.zeros(len(kept))
        if self.text_scorer is not None:
            other = score_texts(self.text_scorer, sentences, self.vocabulary.lexicon.words)
        floored = floor_likelihoods(np.stack(ctc, axis=1)[kept], offsets)
        sentences = Ragged(self.vocabulary.lexicon.same_as[sentences.values], sentences.offsets)
        zeros = np.zeros(len(kept))
        distance = self._distances(offsets, sentences)
        return Pool(offsets, sentences, floored, lm, other, zeros, distance, WORD_LM_GRID)

    def _settings(self, member: int) -> dict[int, WordSettings]:
        """The settings of a member's search for the utterances of each outer fold, fitted without them."""
        folds = np.unique(self.split.outer_folds).tolist()
        return {fold: self.trials[member].settings(fold if self.split.name == "oof" else None) for fold in folds}

    def _language_terms(self, index: int, fold_of: np.ndarray, lm: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What the search adds to sentences' CTC scores, (H,); the utterance of sentence h is in fold `fold_of[h]`."""
        terms = np.zeros(len(lm))
        for fold, settings in self._settings(self.split.predictions[index].member).items():
            in_fold = fold_of == fold
            terms[in_fold] = settings.lm_weight * lm[in_fold] + settings.word_bonus * lengths[in_fold]
        return terms

    def _distances(self, offsets: np.ndarray, sentences: Ragged) -> np.ndarray | None:
        """Edit distances (H,) to the references; None without references."""
        if self.split.references is None:
            return None
        references = Ragged.of(self.split.references, np.int32)
        # Small numbers, because the distance needs memory proportional to the largest.
        both = np.concatenate([sentences.values, references.values])
        small = np.unique(both, return_inverse=True)[1].astype(np.int32)
        count, rows = len(sentences.values), np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return to_references(
            Ragged(small[:count], sentences.offsets), rows, Ragged(small[count:], references.offsets)
        )

    def _score_sentences(self, index: int, offsets: np.ndarray, sentences: Ragged) -> np.ndarray:
        """Exact log-likelihoods (H,) of sentences under one prediction; each is computed once."""
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        numbers = self._words.number(rows, sentences)
        known = self._words.scores_of(index)
        new = np.flatnonzero(np.isnan(known[numbers]))
        if len(new):
            new_offsets = offsets_of(np.bincount(rows[new], minlength=len(offsets) - 1))
            lexicon, silence = self.vocabulary.lexicon, self.vocabulary.silence
            name, log_probs = self.split.predictions[index].name, self.split.predictions[index].load()
            known[numbers[new]] = sentence_likelihoods(
                log_probs, new_offsets, sentences.take(new), lexicon, silence, name
            )
        return known[numbers]


def decode_by_fold(
    log_probs: LogProbs,
    folds: np.ndarray,
    vocabulary: Vocabulary,
    settings: Mapping[int, WordSettings],
    nbest: int,
    name: str,
) -> Sentences:
    """N-best sentences of all utterances; utterance u is decoded with `settings[folds[u]]`."""
    parts, rows = [], []
    for fold, fold_settings in settings.items():
        fold_rows = np.flatnonzero(folds == fold)
        utterances = [log_probs[row] for row in fold_rows.tolist()]
        parts.append(word_beam_search(utterances, vocabulary, fold_settings, nbest, f"decoding to words, {name}"))
        rows.append(fold_rows)
    joined = Sentences(
        offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        Ragged.concatenate([part.words for part in parts]),
        np.concatenate([part.ctc for part in parts]),
        np.concatenate([part.lm for part in parts]),
    )
    return joined.take(np.argsort(np.concatenate(rows), kind="stable"))


def _unite(lists: Sequence[Sentences]) -> tuple[np.ndarray, Ragged]:
    """The distinct sentences of each utterance, sorted by word numbers; at least the empty one."""
    united: list[list[tuple[int, ...]]] = []
    for row in range(len(lists[0].offsets) - 1):
        spans = [(nbest, range(nbest.offsets[row], nbest.offsets[row + 1])) for nbest in lists]
        distinct = {tuple(nbest.words[h].tolist()) for nbest, span in spans for h in span}
        united.append(sorted(distinct) or [()])
    return offsets_of(map(len, united)), Ragged.of(list(itertools.chain.from_iterable(united)), np.int32)


def number_words(texts: Sequence[str], lexicon: Lexicon) -> list[list[int]]:
    """The words of sentences by number; words that are not in the lexicon get further numbers.

    Words are compared as for the word error rate, ignoring case and punctuation. One exception: a word that begins with
    an apostrophe, such as 'em, stays separate, as in hypotheses; the word error rate counts "get 'em" as one word.
    """
    numbers: dict[str, int] = {}
    for number, word in enumerate(lexicon.words[1:], start=1):
        numbers.setdefault(lexicon.compared(word), number)
    free = itertools.count(len(lexicon.words))
    found = []
    for text in texts:
        words = [compared for word in text.split() if (compared := lexicon.compared(word))]
        for word in words:
            if word not in numbers:
                numbers[word] = next(free)
        found.append([numbers[word] for word in words])
    return found
