"""Read and write ARPA files of phone language models, the text format of SRILM and KenLM.

Probabilities are written as base-10 logarithms with nine digits, labels as the alphabet's phoneme names.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from ensemble.lm.kneser_ney import NGrams
from ensemble.lm.ngram import PhoneLM, compile_lm
from registry.errors import InputError, describe_os_error
from registry.files import atomic_write

_LN10 = math.log(10)
_LARGEST = 1e4  # far beyond any log-probability: a larger value means a damaged file
_LOG_ZERO = -99.0  # how ARPA files write log 0: `<s>` is never predicted


def write_arpa(path: str | os.PathLike[str], lm: PhoneLM, phonemes: Sequence[str]) -> None:
    """Write `lm`, with `phonemes[i]` as the name of label i (index 0, the blank, is not written)."""
    names = _names(phonemes, lm.classes)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for n, grams in enumerate(lm.orders, start=1):
            # `<s>` shares label 0 with `</s>`, so there is one more unigram than there are labels.
            file.write(f"ngram {n}={len(grams.tokens) + (n == 1)}\n")
        for n, grams in enumerate(lm.orders, start=1):
            file.write(f"\n\\{n}-grams:\n")
            _write_section(file, grams, names)
        file.write("\n\\end\\\n")


def _write_section(file: TextIO, grams: NGrams, names: Sequence[str]) -> None:
    log_probs, backoffs = ((column.astype(np.float64) / _LN10).tolist() for column in (grams.log_probs, grams.backoffs))
    for tokens, log_prob, backoff in zip(grams.tokens.tolist(), log_probs, backoffs, strict=True):
        if tokens == [0]:
            # The unigram of label 0 is `</s>` as a prediction; its back-off weight is that of `<s>` as a history.
            file.write(f"{_LOG_ZERO:g}\t<s>\t{backoff:.9g}\n")
            backoff = 0.0
        weight = f"\t{backoff:.9g}" if backoff != 0.0 else ""
        file.write(f"{log_prob:.9g}\t{_words(tokens, names)}{weight}\n")


class _Row(NamedTuple):
    """One n-gram of a file, base-10 logarithms. `is_start`: it is, or ends in, `<s>`."""

    tokens: list[int]
    log_prob: float
    backoff: float
    is_start: bool


@dataclass
class _Sections:
    """The number of n-grams of each order in a file, and according to its header."""

    counted: dict[int, int] = field(default_factory=dict)
    expected: dict[int, int] = field(default_factory=dict)


def read_arpa(path: str | os.PathLike[str], phonemes: Sequence[str]) -> PhoneLM:
    """Read a model over `phonemes` (index 0 is the blank).

    N-grams that cannot occur in an utterance are ignored: those with `<unk>`, with `</s>` before the end, or with `<s>`
    after the start. Raises `InputError` for a file that is not ARPA, a line that cannot be parsed, counts that do not
    match, a phoneme that is not in the alphabet or has no unigram, and an n-gram that is listed twice or whose first
    n - 1 words are not listed.
    """
    place = Path(path)
    labels = {name: label for label, name in enumerate(_names(phonemes, len(phonemes)))} | {"<s>": 0}
    rows: defaultdict[int, list[_Row]] = defaultdict(list)

    def keep(order: int, words: Sequence[str], log_prob: float, backoff: float, number: int) -> None:
        if "<unk>" not in words:
            tokens = _labels_of(words, labels, place, number)
            rows[order].append(_Row(tokens, log_prob, backoff, words[-1] == "<s>"))

    orders = [_grams(n, rows[n]) for n in read_ngrams(place, keep)]
    highest = int(62 / np.log2(len(phonemes)))  # n-grams are stored as 64-bit integers
    if len(orders) > highest:
        raise InputError(
            f"{place}: has order {len(orders)}; expected at most {highest} for {len(phonemes)} classes: use a language "
            "model of lower order"
        )
    _check_prefixes(orders, place, _names(phonemes, len(phonemes)))
    return compile_lm(orders, len(phonemes))


def read_ngrams(place: Path, keep: Callable[[int, Sequence[str], float, float, int], None]) -> list[int]:
    """Pass the n-grams of a file to `keep(order, words, log_prob, backoff, line)`, base-10 logarithms.

    Returns the orders of the file, ascending. N-grams that cannot occur in an utterance, with `</s>` before the end or
    `<s>` after the start, are skipped. Raises `InputError` for a file that is not ARPA or whose counts do not match.
    """
    if not place.is_file():
        raise InputError(f"{place}: no such file; expected a language model in ARPA format")
    sections = _read_sections(place, keep)
    if sections.counted != sections.expected:
        raise InputError(
            f"{place}: has {sections.counted} n-grams by order, but its header says {sections.expected}"
        )
    orders = sorted(sections.counted)
    if orders != list(range(1, len(orders) + 1)):
        found = ", ".join(map(str, orders))
        raise InputError(f"{place}: has n-grams of order {found}; expected every order from 1 to the highest")
    return orders


def _read_sections(place: Path, keep: Callable[[int, Sequence[str], float, float, int], None]) -> _Sections:
    sections = _Sections()
    order = 0
    started = ended = False
    for number, line in _lines(place):
        if line == "\\data\\":
            started = True
        elif not started or not line:
            continue
        elif line == "\\end\\":
            ended = True
            break
        elif line.startswith("ngram "):
            n, _, count = line[6:].partition("=")
            sections.expected[_integer(n, place, number)] = _integer(count, place, number)
        elif line.startswith("\\") and line.endswith("-grams:"):
            order = _integer(line[1:-7], place, number)
            sections.counted[order] = 0
        else:
            sections.counted[order] = sections.counted.get(order, 0) + 1
            words, log_prob, backoff = _fields(line, order, place, number)
            if "</s>" not in words[:-1] and "<s>" not in words[1:]:
                keep(order, words, log_prob, backoff, number)
    if not ended or not sections.expected:
        raise InputError(f"{place}: incomplete, or not an ARPA file; expected \\data\\, \\1-grams: … and \\end\\")
    return sections


def _labels_of(words: Sequence[str], labels: dict[str, int], place: Path, number: int) -> list[int]:
    for word in words:
        if word not in labels:
            raise InputError(
                f"{place}, line {number}: {word!r} is not in the competition's alphabet; "
                f"expected a language model over its {len(labels) - 2} phonemes"
            )
    return [labels[word] for word in words]


def _grams(n: int, rows: list[_Row]) -> NGrams:
    if n == 1:
        # Give `</s>`, label 0 as a prediction, the back-off weight of `<s>`, label 0 as a history.
        start = sum(row.backoff for row in rows if row.is_start)
        rows = [row._replace(backoff=start) if row.tokens == [0] else row for row in rows if not row.is_start]
    rows = sorted(rows)
    tokens = np.array([row.tokens for row in rows], dtype=np.int16).reshape(-1, n)
    log_probs, backoffs = (
        np.array([getattr(row, column) for row in rows], np.float64) * _LN10 for column in ("log_prob", "backoff")
    )
    return NGrams(tokens, log_probs.astype(np.float32), backoffs.astype(np.float32))


def _check_prefixes(orders: Sequence[NGrams], place: Path, names: Sequence[str]) -> None:
    """Raise `InputError` for an n-gram that is listed twice, or whose first n - 1 words are not an n-gram."""
    shorter: set[tuple[int, ...]] = {()}
    for n, grams in enumerate(orders, start=1):
        tokens = [tuple(row) for row in grams.tokens.tolist()]
        own = set(tokens)
        if len(own) < len(tokens):
            twice = next(a for a, b in itertools.pairwise(tokens) if a == b)
            raise InputError(f"{place}: lists the {n}-gram {_words(twice, names)!r} twice; expected it once")
        for gram in tokens:
            if gram[:-1] not in shorter:
                raise InputError(
                    f"{place}: lists the {n}-gram {_words(gram, names)!r} without the {n - 1}-gram of its first words"
                )
        shorter = own


def _words(tokens: Sequence[int], names: Sequence[str]) -> str:
    return " ".join(["<s>" if token == 0 else names[token] for token in tokens[:-1]] + [names[tokens[-1]]])


def _names(phonemes: Sequence[str], classes: int) -> list[str]:
    """Names of the labels, `</s>` for label 0. Raises `InputError` for names that an ARPA file cannot hold."""
    if len(phonemes) != classes:
        raise InputError(f"the language model has {classes} classes, the alphabet {len(phonemes)}; expected the same")
    names = ["</s>", *phonemes[1:]]
    invalid = [name for name in names if len(name.split()) != 1 or name in ("<s>", "<unk>")]
    invalid = invalid or [name for name in names if names.count(name) > 1]
    if invalid:
        raise InputError(f"phoneme names {invalid!r} cannot be written to an ARPA file; expected distinct single words")
    return names


def _lines(place: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines without surrounding white space."""
    try:
        with open(place, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.strip()
    except OSError as error:
        raise InputError(describe_os_error(error, place)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not text ({error.reason}); expected a language model in ARPA format") from None


def _fields(line: str, n: int, place: Path, number: int) -> tuple[list[str], float, float]:
    """The words of an n-gram's line, its log-probability and its back-off weight, 0 if it has none."""
    fields = line.split()
    if n < 1 or len(fields) not in (n + 1, n + 2):
        raise InputError(
            f"{place}, line {number}: found {line[:60]!r}; expected a probability, {n} words and a back-off weight"
        )
    backoff = _decimal(fields[n + 1], place, number) if len(fields) == n + 2 else 0.0
    return fields[1 : n + 1], _decimal(fields[0], place, number), backoff


def _integer(text: str, place: Path, number: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise _not_a_number(text, place, number) from None


def _decimal(text: str, place: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _not_a_number(text, place, number) from None
    if not abs(value) <= _LARGEST:
        raise InputError(
            f"{place}, line {number}: found {text.strip()[:40]} where a finite base-10 logarithm is expected, at most "
            f"{_LARGEST:g} in absolute value"
        )
    return value


def _not_a_number(text: str, place: Path, number: int) -> InputError:
    return InputError(f"{place}, line {number}: found {text.strip()[:40]!r} where a number is expected")
