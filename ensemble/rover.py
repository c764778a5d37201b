"""ROVER: systems vote slot by slot on an aligned network, NIST's voting schemes and tie rule.

The alignment and the votes are in `network.py`; here is the one call for a list of hypotheses, and the blender that
searches the scheme, alpha, the null's confidence and who votes on out-of-fold predictions.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

from .network import METHODS, NULL, align, vote

Token = TypeVar("Token", bound=Hashable)


def rover(
    hypotheses: Sequence[Sequence[Token]],
    confidences: Sequence[Sequence[float]] | None = None,
    method: str = "avgconf",
    alpha: float = 1.0,
    null_confidence: float = 0.0,
) -> list[Token]:
    """One string from several systems' strings, best system first (the network is built on the first one).

    `confidences` gives each token's, in 0..1; `method` is meth1, maxconf or avgconf (see `network.vote`), `alpha` the
    weight of the vote counts against the confidences. On a tie the token of the earliest system wins, so a tie can
    delete as well as insert. Raises ValueError for no hypotheses, an unknown method, or confidences of other lengths.

    >>> "".join(rover(["speech", "spech", "peech"]))
    'speech'
    """
    if not hypotheses:
        raise ValueError("rover: no hypotheses")
    if method not in METHODS:
        raise ValueError(f"rover: the method is one of {', '.join(METHODS)}, not {method!r}")
    if confidences is not None and [len(c) for c in confidences] != [len(h) for h in hypotheses]:
        raise ValueError("rover: every token needs one confidence")
    vocabulary: dict[Token, int] = {}
    numbered = [[vocabulary.setdefault(token, len(vocabulary)) for token in h] for h in hypotheses]
    winners, _ = vote(align(numbered, confidences), method, alpha, null_confidence)
    words = list(vocabulary)
    return [words[w] for w in winners if w != NULL]
