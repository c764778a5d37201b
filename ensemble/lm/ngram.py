"""Phone n-gram language models: estimated by modified Kneser-Ney or read from an ARPA file, compiled for decoding.

Sentence ends are symbols of the model: a history starts with `<s>`, and every history has a probability for `</s>`.
Both share index 0 with the blank, which no transcript contains. `[SIL]` is an ordinary label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.lm.automaton import Automaton, compile_automaton, sum_tokens
from ensemble.lm.kneser_ney import NGrams, TokenSequences, kneser_ney, pack
from registry.errors import InputError

# The order of the language models of all commands.
DEFAULT_ORDER = 7
# Higher orders are rejected; from 32 classes on, the estimator's own limit is at most 12.
MAX_ORDER = 20


@dataclass(frozen=True, eq=False)
class PhoneLM:
    """A back-off model over C classes, including the blank.

    `orders` are its n-grams, shortest first; `automaton` computes their probabilities in compiled code.
    """

    orders: tuple[NGrams, ...]
    classes: int
    automaton: Automaton

    @property
    def order(self) -> int:
        """The longest n of its n-grams."""
        return len(self.orders)

    @property
    def lowest(self) -> float:
        """A lower bound of its log-probabilities: the sum of at most one back-off weight per order and one n-gram."""
        return self.order * float(self.automaton.cells["log_prob"].min())

    @property
    def largest(self) -> float:
        """An upper bound of the absolute value of its log-probabilities, including back-off weights."""
        columns = [column for grams in self.orders for column in (grams.log_probs, grams.backoffs)]
        return self.order * max((float(np.abs(column).max(initial=0.0)) for column in columns), default=0.0)

    def score(self, tokens: Sequence[int]) -> float:
        """log P(tokens, end of utterance), natural logarithm."""
        return float(self.scores([tokens])[0])

    def scores(self, sequences: TokenSequences) -> np.ndarray:
        """`score` of many sequences: `(H,)` float64. Raises `InputError` for a token outside 1 … C-1."""
        lengths, tokens = pack(sequences, self.classes)
        return sum_tokens(self.automaton, tokens, lengths)

    def perplexity(self, sequences: TokenSequences) -> float:
        """Perplexity per symbol, where the end of each utterance counts as a symbol."""
        return float(np.exp(-self.scores(sequences).sum() / sum(len(tokens) + 1 for tokens in sequences)))


def compile_lm(orders: Sequence[NGrams], classes: int) -> PhoneLM:
    """The language model of back-off n-grams, shortest first; see `compile_automaton` for the requirements."""
    return PhoneLM(tuple(orders), classes, compile_automaton(orders, classes))


def estimate(sequences: TokenSequences, classes: int, order: int = DEFAULT_ORDER) -> PhoneLM:
    """Estimate an interpolated modified Kneser-Ney model from label sequences (tokens 1 … classes-1).

    `ensemble.lm.kneser_ney` has the formulas. Every label is possible after every history.

    >>> lm = estimate([[1, 2], [1, 2, 2]], classes=4, order=2)
    >>> round(lm.score([1, 2]), 2), round(lm.score([2, 1]), 2)
    (-0.54, -11.43)

    Raises `InputError` for no sequences, an order below 1, or a token outside 1 … classes-1.
    """
    if order < 1 or classes < 2 or order * np.log2(classes) > 62:
        raise InputError(
            f"cannot estimate a language model of order {order} over {classes} classes: "
            "expected an order of at least 1, at least 2 classes, and classes ** order below 2 ** 62"
        )
    if not len(sequences):
        raise InputError("no transcripts to estimate a language model from; expected at least one")
    lengths, tokens = pack(sequences, classes)
    return compile_lm(kneser_ney(lengths, tokens, classes, order), classes)


def estimate_folds(
    sequences: TokenSequences,
    folds: Sequence[int] | np.ndarray,
    classes: int,
    order: int = DEFAULT_ORDER,
) -> dict[int, PhoneLM]:
    """For each fold, estimate a model from the sequences outside it, so that it has not seen the fold's utterances.

    `folds` `(N,)` is the fold of each sequence. Raises `InputError` if one fold holds all sequences.
    """
    fold_of = np.asarray(folds)
    if fold_of.shape != (len(sequences),):
        raise InputError(f"folds are {fold_of.shape}; expected one for each of the {len(sequences)} transcripts")
    return {
        int(fold): estimate([sequences[i] for i in np.flatnonzero(fold_of != fold).tolist()], classes, order)
        for fold in np.unique(fold_of)
    }
