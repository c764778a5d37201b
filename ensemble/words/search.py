"""Decode phoneme log-probabilities to sentences: prefix beam search over a lexicon with a word n-gram model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ensemble.threads import map_threads
from ensemble.words.kernel import search
from ensemble.words.lexicon import Lexicon
from ensemble.words.state import WordGraph
from ensemble.words.trie import LexiconTree, best_word_below, build_trie
from ensemble.words.word_lm import WordLM
from folds.store.ragged import Ragged, offsets_of
from models import ctc
from registry.console import track


class WordSettings(NamedTuple):
    """The weights of a search: score = log P_CTC + lm_weight * log P_LM + word_bonus * number of words."""

    lm_weight: float = 0.8
    word_bonus: float = 1.0
    beam: int = 100
    """Number of prefixes kept after each frame."""
    look_ahead: bool = True
    """Whether an incomplete word is scored as the most probable word that it can become."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a word search needs: a lexicon, a language model of its words, and the class of the silence."""

    lexicon: Lexicon
    lm: WordLM
    silence: int = 0
    """The class of the optional silence between words; 0 for none."""

    @cached_property
    def trie(self) -> LexiconTree:
        """The tree of the lexicon's pronunciations."""
        return build_trie(self.lexicon, self.silence)

    @cached_property
    def best_unigrams(self) -> np.ndarray:
        """The log-probability of the most probable word at or below each node of the tree, `(nodes,)`."""
        return best_word_below(self.trie, self.lm.unigrams(len(self.lexicon.words)))

    def look_ahead(self, settings: WordSettings) -> np.ndarray:
        """The factor by which each node's mass is multiplied when prefixes are compared, `(nodes,)`."""
        weight = settings.lm_weight if settings.look_ahead else 0.0
        return np.exp(weight * (self.best_unigrams - self.best_unigrams[0]))

    def graph(self, settings: WordSettings) -> WordGraph:
        """The search space for compiled code, with these settings."""
        weights = float(settings.lm_weight), float(settings.word_bonus)
        return WordGraph(self.trie, self.look_ahead(settings), *self.lm.automaton, self.silence, *weights)


@dataclass(frozen=True, eq=False)
class Sentences:
    """N-best lists of N utterances: utterance u has the hypotheses `offsets[u]:offsets[u + 1]`, best first."""

    offsets: np.ndarray
    words: Ragged
    """The words of each hypothesis by number, int32."""
    ctc: np.ndarray
    """log P_CTC `(H,)`, summed over all pronunciations and silences that were in the beam."""
    lm: np.ndarray
    """log P_LM `(H,)`."""

    def scores(self, settings: WordSettings) -> np.ndarray:
        """The scores that sort the lists with these settings, `(H,)`."""
        return self.ctc + settings.lm_weight * self.lm + settings.word_bonus * self.words.lengths

    @property
    def best(self) -> list[list[int]]:
        """The best hypothesis of each utterance, or no words if there is none."""
        empty = np.diff(self.offsets) == 0
        return [[] if none else self.words[at].tolist() for none, at in zip(empty, self.offsets[:-1], strict=True)]

    def take(self, rows: Sequence[int] | np.ndarray) -> Sentences:
        """The lists of some utterances."""
        kept, offsets = Ragged(self.lm, self.offsets).rows_of(rows)
        return Sentences(offsets, self.words.take(kept), self.ctc[kept], self.lm[kept])


def word_beam_search(
    log_probs: Sequence[np.ndarray],
    vocabulary: Vocabulary,
    settings: WordSettings | None = None,
    nbest: int = 1,
    description: str = "",
) -> Sentences:
    """The N-best sentences of N utterances, log-probabilities `(T, C)` each.

    The list is empty for an utterance whose frames allow no sentence of the lexicon's words. Raises InputError for a
    frame that cannot be decoded, naming utterance and frame.
    """
    settings = settings or WordSettings()
    graph = vocabulary.graph(settings)

    def decode(row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(log_probs[row], np.float32)
        ctc.check_frames(rows, row)
        return search(rows, settings.beam, nbest, graph)

    utterances = range(len(log_probs))
    found = list(track(map_threads(decode, utterances), description or "decode words", len(utterances)))
    lengths, words, scores, lm = ([part[k] for part in found] for k in range(4))
    every = Ragged(np.concatenate([np.zeros(0, np.int32), *words]), offsets_of(np.concatenate([[], *lengths])))
    flat = [np.concatenate([np.zeros(0), *parts]) for parts in (scores, lm)]
    return Sentences(offsets_of(map(len, lengths)), every, flat[0], flat[1])
