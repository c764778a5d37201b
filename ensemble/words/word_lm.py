"""A word n-gram model from an ARPA file, compiled to the automaton that the phone models use.

For a vocabulary of 100,000 words, only two histories have dense rows, the empty one and the start of the utterance; all
others list their successors. Memory is thus proportional to the number of n-grams: 12 bytes each, plus 24 per history.
"""

from __future__ import annotations

import itertools
import math
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ensemble.lm.arpa import read_ngrams
from ensemble.lm.automaton import CELL, START, Automaton, Histories, sum_tokens, write_dense, write_sparse
from ensemble.words.lexicon import Lexicon
from folds.store.ragged import Ragged, offsets_of
from registry.errors import InputError

_LN10 = math.log(10)
_IMPOSSIBLE = -99 * _LN10
"""The logarithm of 0 in ARPA files; also the log-probability of an unlisted word if the model has no `<unk>`."""


@dataclass(frozen=True, eq=False)
class WordLM:
    """Log-probabilities of word sequences; words are numbers in a lexicon."""

    automaton: Automaton
    order: int
    unknown: int
    """Number of words in the lexicon that the model does not list."""

    def scores(self, sentences: Ragged) -> np.ndarray:
        """log P(words, end of utterance) of many sentences, `(H,)` float64, natural logarithms."""
        return sum_tokens(self.automaton, sentences.values.astype(np.int64), sentences.lengths)

    def unigrams(self, count: int) -> np.ndarray:
        """log P(word) `(V + 1,)` without a history, float64, for a vocabulary of `count` = V + 1."""
        empty = START + count + 1
        return self.automaton.cells["log_prob"][empty : empty + count].astype(np.float64)


@dataclass
class _Columns:
    """The n-grams of one order as they are read."""

    tokens: array = field(default_factory=lambda: array("i"))
    log_probs: array = field(default_factory=lambda: array("f"))
    backoffs: array = field(default_factory=lambda: array("f"))


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order, sorted."""

    keys: np.ndarray
    """One number per n-gram: the index of its first n - 1 words among the (n - 1)-grams, times V + 1, plus the last."""
    log_probs: np.ndarray
    backoffs: np.ndarray
    suffixes: list[np.ndarray]
    """For k from 1 to the order, the index of the last k words among the k-grams, -1 if they are not listed."""


def read_word_lm(path: str | os.PathLike[str], lexicon: Lexicon) -> WordLM:
    """Read a word language model for the words of `lexicon`; n-grams with other words are skipped as never needed.

    A word of the lexicon that the model does not list gets the probability and the back-off weight of `<unk>`; longer
    n-grams with `<unk>` are skipped. Raises InputError for a file that is not ARPA, counts that do not match, an n-gram
    that is listed twice or whose first n - 1 words are not listed, and for a model with none of the lexicon's words.
    """
    place = Path(path)
    numbers = lexicon.number_of | {"<s>": 0, "</s>": 0}
    columns: defaultdict[int, _Columns] = defaultdict(_Columns)
    marks: dict[str, tuple[float, float]] = {}

    def keep(order: int, words: Sequence[str], log_prob: float, backoff: float, number: int) -> None:
        if order == 1 and words[0] in ("<s>", "</s>", "<unk>", "<UNK>"):
            marks[words[0].lower()] = (log_prob * _LN10, backoff * _LN10)
            return
        try:
            tokens = [numbers[word] for word in words]
        except KeyError:
            return
        columns[order].tokens.extend(tokens)
        columns[order].log_probs.append(log_prob * _LN10)
        columns[order].backoffs.append(backoff * _LN10)

    order = max(read_ngrams(place, keep))
    unknown = len(lexicon.words) - 1 - len(columns[1].tokens)
    if not columns[1].tokens:
        raise InputError(
            f"{place}: lists none of the lexicon's words, such as {lexicon.words[1]!r}; expected a language model of "
            "words, spelt as in the lexicon, upper and lower case alike"
        )
    levels = [_unigrams(columns[1], marks, len(lexicon.words), place, lexicon)]
    for n in range(2, max(order, 2) + 1):  # the start of an utterance is a history even in a unigram model
        levels.append(_level(n, columns[n], levels, place, lexicon))
    return WordLM(_compile(levels, len(lexicon.words)), order, unknown)


def _unigrams(
    columns: _Columns, marks: Mapping[str, tuple[float, float]], count: int, place: Path, lexicon: Lexicon
) -> _Level:
    """All V + 1 unigrams; number 0 has the log-probability of `</s>` and the back-off weight of `<s>`."""
    tokens = np.array(columns.tokens, np.int32)
    _check_distinct(np.sort(tokens)[:, None], place, lexicon)
    of_unknown = marks.get("<unk>", (_IMPOSSIBLE, 0.0))
    log_probs, backoffs = (np.full(count, value, np.float32) for value in of_unknown)
    log_probs[tokens], backoffs[tokens] = columns.log_probs, columns.backoffs
    log_probs[0] = marks.get("</s>", (_IMPOSSIBLE, 0.0))[0]
    backoffs[0] = marks.get("<s>", (0.0, 0.0))[1]
    every = np.arange(count)
    return _Level(every, log_probs, backoffs, [every])


def _level(n: int, columns: _Columns, shorter: Sequence[_Level], place: Path, lexicon: Lexicon) -> _Level:
    """The n-grams of order `n` > 1, sorted, with their suffixes among the `shorter` ones."""
    tokens = np.array(columns.tokens, np.int32).reshape(-1, n)
    order = np.lexsort(tokens.T[::-1])
    tokens = tokens[order]
    _check_distinct(tokens, place, lexicon)
    count, prefix = len(shorter[0].keys), tokens[:, 0].astype(np.int64)
    for k in range(1, n - 1):
        prefix = _find(shorter[k].keys, prefix, tokens[:, k], count)
    for row in np.flatnonzero(prefix < 0)[:1]:
        gram = _words(tokens[row], lexicon)
        raise InputError(f"{place}: lists the {n}-gram {gram!r} without the {n - 1}-gram of its first words")
    last = tokens[:, -1].astype(np.int64)
    # The last k words are the last k - 1 words of the prefix, plus the last word.
    longer = [_find(shorter[k - 1].keys, shorter[n - 2].suffixes[k - 2][prefix], last, count) for k in range(2, n)]
    suffixes = [last, *longer, np.arange(len(tokens))]
    log_probs, backoffs = (np.array(column, np.float32)[order] for column in (columns.log_probs, columns.backoffs))
    return _Level(prefix * count + last, log_probs, backoffs, suffixes)


def _find(keys: np.ndarray, prefix: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """The index `(M,)` of each n-gram among the sorted `keys` of its order; -1 if it or its prefix is not listed."""
    if not len(keys):
        return np.full(len(last), -1)
    wanted = prefix * count + last
    found = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where((prefix >= 0) & (keys[found] == wanted), found, -1)


def _compile(levels: Sequence[_Level], count: int) -> Automaton:
    """The automaton of a model over `count` = V + 1 words.

    A history is a state if an n-gram continues it, or if it has a back-off weight.
    """
    row, empty = count + 1, START + count + 1
    successor_counts = [
        np.bincount(longer.keys // count, minlength=len(level.keys)) for level, longer in itertools.pairwise(levels)
    ]
    states, free = [], 2 * row
    for level, counts in zip(levels, successor_counts, strict=False):
        # At the end of an n-gram, number 0 is `</s>`, which nothing follows; alone it is `<s>`, the state `START`.
        is_state = ((counts > 0) | (level.backoffs != 0)) & (level.keys % count > 0)
        offsets = free + offsets_of(np.where(is_state, counts + 2, 0))
        states.append(np.where(is_state, offsets[:-1] + 1, -1))
        free = int(offsets[-1])
    if states:
        states[0][0] = START

    def state_of(level: _Level, length: int) -> np.ndarray:
        """The state of the longest suffix, of up to `length` words, that is a state."""
        longest = np.full(len(level.keys), empty)
        for k in range(min(length, len(states))):
            suffix = level.suffixes[k]
            state = np.where(suffix >= 0, states[k][suffix], -1)
            longest = np.where(state >= 0, state, longest)
        return longest

    cells = np.zeros(free, CELL)
    followers: list[np.ndarray] = []
    for n, level in enumerate(levels, start=1):
        followers.append(np.empty(len(level.keys), CELL))
        successors = followers[-1]
        successors["token"], successors["log_prob"] = level.keys % count, level.log_probs
        successors["next"] = state_of(level, n)
    followers[0]["next"][0] = empty  # nothing follows the end of an utterance
    root = np.array([empty])
    of_root = Histories(root, root, np.zeros(1, np.float32), root, np.array([count]), True)
    write_dense(cells, of_root, followers[0], count)
    for n, (level, counts, state) in enumerate(zip(levels, successor_counts, states, strict=False), start=1):
        backoff_state = state_of(level, n - 1)
        after, kept = levels[n].keys // count, state >= 0
        for dense in (True, False) if n == 1 else (False,):
            chosen = kept & ((np.arange(len(state)) == 0) == dense) if n == 1 else kept
            history = Histories(
                level.keys[chosen], state[chosen], level.backoffs[chosen], backoff_state[chosen], counts[chosen], dense
            )
            (write_dense if dense else write_sparse)(cells, history, followers[n][chosen[after]], count)
    return Automaton(cells, 2 * row)


def _check_distinct(tokens: np.ndarray, place: Path, lexicon: Lexicon) -> None:
    for row in np.flatnonzero((tokens[1:] == tokens[:-1]).all(axis=1))[:1]:
        gram = _words(tokens[row], lexicon)
        raise InputError(f"{place}: lists the {tokens.shape[1]}-gram {gram!r} twice; expected it once")


def _words(tokens: np.ndarray, lexicon: Lexicon) -> str:
    names = ["<s>" if token == 0 else lexicon.words[token] for token in tokens.tolist()]
    return " ".join(names)
