"""ARPA files of phone language models, the format SRILM and KenLM read: out and in.

Probabilities are base-10 logarithms with nine digits, labels are the alphabet's phoneme names. It does not estimate
(`ensemble.lm` does) and reads no binary formats.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ensemble.lm.ngram import NGrams, PhoneLM, compile_lm
from registry.errors import InputError, atomic_write

_LN10 = math.log(10)
_NEVER = -99.0  # what ARPA files write for log 0: `<s>` is never predicted


def write_arpa(path: str | os.PathLike[str], lm: PhoneLM, phonemes: Sequence[str]) -> None:
    """Write `lm` with `phonemes[i]` for label i (index 0, the blank, is not written)."""
    names = _names(phonemes, lm.classes)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        for n, grams in enumerate(lm.orders, start=1):
            # `<s>` shares label 0 with `</s>`, so it is one unigram more than there are labels.
            file.write(f"ngram {n}={len(grams.tokens) + (n == 1)}\n")
        for n, grams in enumerate(lm.orders, start=1):
            file.write(f"\n\\{n}-grams:\n")
            for tokens, log_prob, backoff in zip(
                grams.tokens.tolist(),
                (grams.log_probs / _LN10).tolist(),
                (grams.backoffs / _LN10).tolist(),
                strict=True,
            ):
                words = " ".join("<s>" if token == 0 else names[token] for token in tokens[:-1])
                last = names[tokens[-1]]
                if n == 1 and tokens[0] == 0:
                    file.write(f"{_NEVER:g}\t<s>\t{backoff:.9g}\n")
                    backoff = 0.0
                weight = f"\t{backoff:.9g}" if backoff != 0.0 else ""
                file.write(
                    f"{log_prob:.9g}\t{words} {last}{weight}\n" if words else f"{log_prob:.9g}\t{last}{weight}\n"
                )
        file.write("\n\\end\\\n")


def read_arpa(path: str | os.PathLike[str], phonemes: Sequence[str]) -> PhoneLM:
    """Read a model over `phonemes` (index 0 the blank). `<unk>` is passed over.

    Raises `InputError` naming the line: no ARPA file, a line that cannot be read, counts that do not match, a phoneme
    that is not in the alphabet or has no unigram.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"{place}: no such file; expected a language model in ARPA format")
    labels = {name: label for label, name in enumerate(_names(phonemes, len(phonemes)))} | {"<s>": 0}
    expected: dict[int, int] = {}
    rows: dict[int, list[tuple[list[int], float, float]]] = {}
    counted: dict[int, int] = {}
    section = 0
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
            order, _, count = line[6:].partition("=")
            expected[_number(int, order, place, number)] = _number(int, count, place, number)
        elif line.startswith("\\") and line.endswith("-grams:"):
            section = _number(int, line[1:-7], place, number)
            rows[section], counted[section] = [], 0
        else:
            counted[section] = counted.get(section, 0) + 1
            words, log_prob, backoff = _fields(line, section, place, number)
            if "<unk>" in words:
                continue
            for word in words:
                if word not in labels:
                    raise InputError(
                        f"{place}, line {number}: {word!r} is not in the competition's alphabet; "
                        f"expected a language model of its {len(phonemes) - 1} phonemes"
                    )
            rows[section].append(([labels[word] for word in words], log_prob, backoff, words[-1] == "<s>"))
    if not ended or not expected:
        raise InputError(f"{place}: not a whole ARPA file; expected \\data\\, \\1-grams: … and \\end\\")
    if counted != expected:
        raise InputError(f"{place}: holds {counted} n-grams by order where its header says {expected}")
    return compile_lm([_grams(n, rows[n]) for n in sorted(rows)], len(phonemes))


def _grams(n: int, rows: list) -> NGrams:
    if n == 1:
        # Give `</s>`, label 0 as a prediction, the back-off of `<s>`, label 0 as a history.
        start = sum(backoff for _, _, backoff, is_start in rows if is_start)
        rows = [(t, p, start if t == [0] else b, False) for t, p, b, is_start in rows if not is_start]
    tokens = np.array([row[0] for row in rows], dtype=np.int32).reshape(-1, n)
    log_probs = np.array([row[1] for row in rows]) * _LN10
    return NGrams(tokens, log_probs, np.array([row[2] for row in rows]) * _LN10)


def _names(phonemes: Sequence[str], classes: int) -> list[str]:
    names = ["</s>", *phonemes[1:]]
    if len(phonemes) != classes:
        raise InputError(f"the language model has {classes} classes, the alphabet {len(phonemes)}; expected the same")
    wrong = [name for name in names if not name or len(name.split()) != 1] or [n for n in names if names.count(n) > 1]
    if wrong or "<s>" in names or "<unk>" in names:
        raise InputError(
            f"phoneme names {wrong or names!r} cannot stand in an ARPA file; expected distinct single words"
        )
    return names


def _lines(place: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(place, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not text ({error.reason}); expected a language model in ARPA format") from None


def _fields(line: str, n: int, place: Path, number: int) -> tuple[list[str], float, float]:
    fields = line.split()
    if n < 1 or len(fields) not in (n + 1, n + 2):
        raise InputError(
            f"{place}, line {number}: found {line[:60]!r}; expected a probability, {n} words and a back-off"
        )
    backoff = _number(float, fields[n + 1], place, number) if len(fields) == n + 2 else 0.0
    return fields[1 : n + 1], _number(float, fields[0], place, number), backoff


def _number(kind: type, text: str, place: Path, number: int):
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"{place}, line {number}: found {text.strip()[:40]!r} where a number is expected") from None
    if not math.isfinite(value):
        raise InputError(f"{place}, line {number}: found {text.strip()} where a finite number is expected")
    return value
