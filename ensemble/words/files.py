"""The files that decoding to words needs, and the options that name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.words.lexicon import read_lexicon, silence_class
from ensemble.words.search import Vocabulary
from ensemble.words.word_lm import read_word_lm
from folds.data.dataset import Dataset
from registry import InputError
from registry.bounds import Bounded

LEXICON = "lexicon.txt"
WORD_LM = "words.arpa"


@dataclass(frozen=True)
class WordOptions(Bounded):
    """What a competition in words is decoded with; ignored for others."""

    lexicon: Path | None = None
    """For a competition in words: its lexicon, a word and its phonemes per line; by default its folder's
    lexicon.txt."""
    word_lm: Path | None = None
    """For a competition in words: a language model of words in ARPA format; by default words.arpa in its folder."""

    def open_vocabulary(self, dataset: Dataset) -> Vocabulary:
        """The lexicon and the model of words. Raises InputError where one is missing or damaged."""
        lexicon = self.lexicon or dataset.root / LEXICON
        word_lm = self.word_lm or dataset.root / WORD_LM
        needed = ((lexicon, "--lexicon", "lexicon"), (word_lm, "--word-lm", "language model of words"))
        for path, option, what in needed:
            if not path.is_file():
                raise InputError(f"{path}: no such file; a competition in words needs a {what}: pass {option} FILE")
        phonemes = dataset.alphabet.phonemes
        words = read_lexicon(lexicon, phonemes)
        return Vocabulary(words, read_word_lm(word_lm, words), silence_class(phonemes))


def in_words(dataset: Dataset) -> bool:
    """Whether the competition is scored in words."""
    return dataset.competition.metrics[0].words
