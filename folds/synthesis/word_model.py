"""A word n-gram model of sentences, and files that decoders read: an ARPA file and a lexicon.

Probabilities are interpolated as in Witten and Bell, "The zero-frequency problem" (IEEE Trans. Information Theory 37,
1991): P(w | h) = (count(h w) + T(h) P(w | h without its first word)) / (count(h) + T(h)), where T(h) is the number of
different words seen after h. In an ARPA file, T(h) / (count(h) + T(h)) is the back-off weight of h.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from registry.files import atomic_write

START, END = "<s>", "</s>"
NGram = tuple[str, ...]


class WordModel:
    """Counts of n-grams up to `order`, over the words of `vocabulary` and the end of a sentence."""

    def __init__(self, sentences: Iterable[Sequence[str]], vocabulary: Iterable[str], order: int = 3) -> None:
        self.order = order
        self._words = (*sorted(vocabulary), END)
        self.followers: dict[NGram, Counter[str]] = defaultdict(Counter)
        """How often each word follows a history of 0 to order - 1 words."""
        for sentence in sentences:
            words = [START, *sentence, END]
            for position in range(1, len(words)):
                for size in range(min(order, position + 1)):
                    self.followers[tuple(words[position - size : position])][words[position]] += 1

    def probability(self, word: str, history: NGram) -> float:
        """P(word | history); only the last order - 1 words of the history count."""
        history = history[max(0, len(history) - self.order + 1) :]
        lower = self.probability(word, history[1:]) if history else 1 / len(self._words)
        seen = self.followers.get(history)
        if seen is None:
            return lower
        return (seen[word] + len(seen) * lower) / (seen.total() + len(seen))

    def back_off(self, history: NGram) -> float:
        """P(word | history) / P(word | history without its first word) for words that never followed the history."""
        seen = self.followers.get(history)
        return 1.0 if seen is None else len(seen) / (seen.total() + len(seen))

    def write_arpa(self, path: Path) -> None:
        """Write the model as an ARPA file: base-10 logarithms, words separated by spaces."""
        grams: list[list[NGram]] = [[(START,), *((word,) for word in self._words)]]
        for size in range(1, self.order):
            histories = sorted(history for history in self.followers if len(history) == size)
            grams.append([(*history, word) for history in histories for word in sorted(self.followers[history])])
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write("\\data\\\n" + "".join(f"ngram {n}={len(part)}\n" for n, part in enumerate(grams, start=1)))
            for n, part in enumerate(grams, start=1):
                file.write(f"\n\\{n}-grams:\n" + "".join(self._line(gram) for gram in part))
            file.write("\n\\end\\\n")

    def _line(self, gram: NGram) -> str:
        log_prob = -99.0 if gram == (START,) else math.log10(self.probability(gram[-1], gram[:-1]))
        weight = f"\t{math.log10(self.back_off(gram)):.7f}" if gram in self.followers else ""
        return f"{log_prob:.7f}\t{' '.join(gram)}{weight}\n"


def write_lexicon(path: Path, lexicon: Mapping[str, Sequence[str]]) -> None:
    """Write one pronunciation per line: the word, a tab, its phonemes separated by spaces."""
    lines = (f"{word}\t{' '.join(phonemes)}\n" for word, phonemes in sorted(lexicon.items()))
    with atomic_write(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
