"""The lexicon: words and the phonemes of each of their pronunciations, read from a text file.

A line holds a word and its phonemes, separated by spaces or tabs, as in Kaldi's and flashlight's lexicons:

    hello HH AH L OW
    hello HH EH L OW

CMUdict's format is accepted, too: lines that begin with `;;;` are comments, `hello(2)` is another pronunciation of
`hello`, and the stress in `AH0` is dropped if the competition's phonemes have none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from folds.competition.alphabets import SILENCES
from folds.competition.metric import words_of
from folds.store.ragged import Ragged
from registry.errors import InputError, describe_os_error

# How alphabets write the boundary between words.
BOUNDARIES = ("|", *SILENCES)


def silence_class(phonemes: Sequence[str]) -> int:
    """The class of the silence between words; 0 (the blank) if the alphabet has none.

    >>> silence_class(["", "AA", " | "])
    2
    """
    return next((label for label, name in enumerate(phonemes) if label and name.strip() in BOUNDARIES), 0)


@dataclass(frozen=True, eq=False)
class Lexicon:
    """V words and their P pronunciations."""

    words: tuple[str, ...]
    """Words by number, `(V + 1,)`; number 0 is the end of an utterance, an empty string."""
    pronunciations: Ragged
    """Phonemes of each pronunciation, int16 classes."""
    word_of: np.ndarray
    """The word of each pronunciation, `(P,)` int32 from 1."""

    @staticmethod
    def compared(word: str) -> str:
        """A word normalised as for word error rates, without case and punctuation; empty if nothing is left."""
        return " ".join(words_of(f"{word} "))  # the space, so that a trailing hyphen ends the word

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words) if number}

    @cached_property
    def same_as(self) -> np.ndarray:
        """For each word, the first that word error rates treat as equal, such as `may` for `May`, (V + 1,) int32."""
        first: dict[str, int] = {}
        return np.array(
            [first.setdefault(self.compared(word) or word, number) for number, word in enumerate(self.words)], np.int32
        )

    @cached_property
    def pronunciations_of(self) -> Ragged:
        """Indices of each word's pronunciations: part `w` has those of word `w`."""
        order = np.argsort(self.word_of, kind="stable")
        return Ragged(order, np.searchsorted(self.word_of[order], np.arange(len(self.words) + 1)))

    def text(self, numbers: Iterable[int]) -> str:
        """The words with these numbers, separated by spaces."""
        return " ".join([self.words[number] for number in numbers])


def read_lexicon(path: str | os.PathLike[str], phonemes: Sequence[str]) -> Lexicon:
    """Read a lexicon over `phonemes` (index 0 is the blank); empty lines are skipped.

    Pronunciations that differ only in dropped stress are merged. Raises InputError, naming file and line, for a word
    without phonemes, an unknown phoneme or a duplicate line; also for a file that cannot be read or lists no words.
    """
    place = Path(path)
    label_of = {name.strip(): label for label, name in enumerate(phonemes) if label}
    numbers: dict[str, int] = {}
    listed: set[tuple[str, ...]] = set()
    entries: dict[tuple[int, tuple[int, ...]], None] = {}  # a set that keeps the order
    for line, fields in _rows(place):
        word = re.sub(r"(?<=.)\(\d+\)$", "", fields[0])
        names = [name if name in label_of else re.sub(r"[012]$", "", name) for name in fields[1:]]
        if not names:
            raise InputError(f"{place}, line {line}: {word[:40]!r} has no phonemes; expected a word and its phonemes")
        unknown = [name for name in names if name not in label_of]
        if unknown:
            raise InputError(
                f"{place}, line {line}: {word[:40]!r} has the unknown phoneme {unknown[0][:40]!r}; expected those of "
                f"the competition ({' '.join(label_of)})"
            )
        if (as_read := (word, *fields[1:])) in listed:
            raise InputError(
                f"{place}, line {line}: lists {' '.join(fields)[:80]!r} twice; expected each pronunciation once"
            )
        listed.add(as_read)
        entries[numbers.setdefault(word, len(numbers) + 1), tuple(label_of[name] for name in names)] = None
    if not entries:
        raise InputError(f"{place}: lists no words; expected a line for each pronunciation, such as 'hello HH AH L OW'")
    pronunciations = Ragged.of([labels for _, labels in entries], np.int16)
    return Lexicon(("", *numbers), pronunciations, np.array([number for number, _ in entries], np.int32))


def _rows(place: Path) -> Iterable[tuple[int, list[str]]]:
    """Line numbers from 1 and the fields of the lines that are neither empty nor comments."""
    try:
        with open(place, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                fields = line.split()
                if fields and not fields[0].startswith(";;;"):
                    yield number, fields
    except OSError as error:
        raise InputError(f"{describe_os_error(error, place)}; expected a lexicon") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 text ({error.reason}); expected a lexicon") from None
